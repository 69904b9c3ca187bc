"""Learned images of 28 x 28 that train a ConvNet-3."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.case import Case, Forward, assemble
from benchmarks.workloads import Cases
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.models import ConvNet

# Filters, images of each class, inner steps.
SIZES = {"full": (128, 5, 4), "quick": (32, 5, 4), "tiny": (4, 2, 3)}


def cases(size: str, device: list[str]) -> Cases:
    return {"distillation": partial(build, *SIZES[size], device)}


def build(width: int, per_class: int, steps: int, device: list[str]) -> Case:
    overrides = [
        *("task=distill", "model=convnet", f"model.width={width}", "method=reverse", *device),
        *("task.networks.count=1", "task.real_per_class=10", f"task.per_class={per_class}"),
        f"inner_steps={steps}",
    ]
    source = {
        **{"_target_": "benchmarks.data.Blobs", "shape": [1, 28, 28], "num_classes": 10},
        **{"train": 500, "validation": 1},
    }

    def plain() -> ConvNet:
        return ConvNet(width, 3, (1, 28, 28), 10)

    return assemble(overrides, source, plain, inner_loss, outer_loss, "unrolled")


def inner_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    images = outer["images"]
    labels = torch.arange(10, device=images.device).repeat_interleave(len(images) // 10)
    return cross_entropy(forward(images), labels)


def outer_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    return cross_entropy(forward(batch["x"].flatten(0, 1)), batch["y"].flatten(0, 1))

"""Ten learned images of 28 x 28 that train a ConvNet-3."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.case import Case, Forward, assemble
from benchmarks.workloads import Cases
from bilevel_cli.models import ConvNet
from bilevel_cli.problem import Batch
from bilevel_cli.trees import Params

SIZES = {"full": (128, 4), "quick": (32, 4), "tiny": (4, 3)}  # filters, inner steps


def cases(size: str, device: list[str]) -> Cases:
    return {"distillation": partial(build, *SIZES[size], device)}


def build(width: int, steps: int, device: list[str]) -> Case:
    overrides = [
        *("task=distill", "model=convnet", f"model.width={width}", "method=reverse", *device),
        *("task.networks.count=1", "task.real_per_class=10", f"inner_steps={steps}"),
    ]
    source = {
        **{"_target_": "benchmarks.data.Blobs", "shape": [1, 28, 28], "num_classes": 10},
        **{"train": 500, "validation": 1},
    }

    def plain() -> ConvNet:
        return ConvNet(width, 3, (1, 28, 28), 10)

    return assemble(overrides, source, plain, inner_loss, outer_loss, "unrolled")


def inner_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    return cross_entropy(forward(outer["images"]), torch.arange(10, device=outer["images"].device))


def outer_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    return cross_entropy(forward(batch["x"].flatten(0, 1)), batch["y"].flatten(0, 1))

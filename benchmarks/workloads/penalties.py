"""An L2 penalty for every parameter of a logistic regression, momentum 0.9."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.case import Case, Forward, assemble
from benchmarks.workloads import Cases
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.models import Linear

SIZES = {"full": (2000, 20, 1000, 100), "quick": (2000, 20, 1000, 20), "tiny": (15, 4, 40, 6)}


def cases(size: str, device: list[str]) -> Cases:
    return {"penalties, unrolled": partial(build, *SIZES[size], device)}


def build(features: int, classes: int, count: int, steps: int, device: list[str]) -> Case:
    overrides = [
        *("task=hpo", "model=linear", "method=reverse", "solver=momentum", *device),
        *(f"inner_steps={steps}", "suggest.inner_lr=0.1"),
    ]
    source = {
        **{"_target_": "benchmarks.data.Blobs", "shape": [features], "num_classes": classes},
        **{"train": count, "validation": count},
    }

    def plain() -> Linear:
        return Linear((features,), classes)

    return assemble(overrides, source, plain, inner_loss, outer_loss, "unrolled")


def inner_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    penalties = zip(z, outer.values(), strict=True)
    penalty = sum((log.exp() * w.square()).sum() for w, log in penalties)
    return cross_entropy(forward(batch["x"]), batch["y"]) + penalty / 2


def outer_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    return cross_entropy(forward(batch["x"]), batch["y"])

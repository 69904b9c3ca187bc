"""Data hyper-cleaning on inputs of the size of MNIST's: unrolled, implicit, and pessimistic."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.case import Case, Forward, assemble
from benchmarks.workloads import Cases
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.models import Linear, Mlp

L2 = 1e-3
SIZES = {"full": (784, 5000, 100), "quick": (784, 2000, 20), "tiny": (20, 60, 8)}
# Scales of the strong and the weak block of inputs, with which the outer loss is
# largest at the first, about the middle and the last inner step.
PESSIMISTIC = {"first": (0.0, 3.0), "middle": (6.0, 1.95), "last": (6.0, 0.0)}
CG = ("implicit", "method=cg", "method.linear_solver.max_steps=20", "method.linear_solver.rtol=0.0")
NEUMANN = ("implicit", "method=neumann", "method.linear_solver.max_steps=20")
UNROLLED = ("unrolled", "method=reverse")


def cases(size: str, device: list[str]) -> Cases:
    steps = SIZES[size][-1]
    few = max(2, 3 * steps // 10)
    return {
        "cleaning linear, unrolled": partial(linear, size, steps, UNROLLED, device),
        "cleaning linear, CG": partial(linear, size, steps, CG, device),
        "cleaning linear, Neumann": partial(linear, size, steps, NEUMANN, device),
        "cleaning MLP, unrolled": partial(mlp, size, few, UNROLLED, device),
        "cleaning MLP, Neumann": partial(mlp, size, few, NEUMANN, device),
        **{
            f"pessimistic step {where}": partial(pessimistic, size, steps, where, device)
            for where in PESSIMISTIC
        },
    }


def linear(
    size: str, steps: int, method: Sequence[str], device: list[str], count: int | None = None
) -> Case:
    features, usual, _ = SIZES[size]
    source = _blobs(features, count or usual)
    model = ["model=linear", "suggest.inner_lr=1.0"]
    return _build(model, source, lambda: Linear((features,), 10), steps, method, device)


def mlp(size: str, steps: int, method: Sequence[str], device: list[str]) -> Case:
    features, count, _ = SIZES[size]
    width = 300 if features == 784 else 7

    def plain() -> nn.Module:
        return Mlp(width, 1, "relu", (features,), 10)

    model = ["model=mlp", f"model.width={width}", "suggest.inner_lr=0.1"]
    return _build(model, _blobs(features, count), plain, steps, method, device)


def pessimistic(size: str, steps: int, where: str, device: list[str]) -> Case:
    features, count, _ = SIZES[size]
    strong, weak = PESSIMISTIC[where]
    source = {
        **{"_target_": "benchmarks.data.Misleading", "strong": strong, "weak": weak},
        **{"features": features, "train": count, "validation": count},
    }
    method = ("pessimistic", "method=iaptt", "start=cold")
    # As far along the same path, whatever the number of steps.
    model = ["model=linear", f"suggest.inner_lr={10 / steps}"]
    return _build(model, source, lambda: Linear((features,), 10), steps, method, device)


def _blobs(features: int, count: int) -> dict[str, Any]:
    shape = {"shape": [features], "num_classes": 10}
    return {"_target_": "benchmarks.data.Blobs", **shape, "train": count, "validation": count}


def _build(
    model: list[str],
    source: dict[str, Any],
    plain: Callable[[], nn.Module],
    steps: int,
    method: Sequence[str],
    device: list[str],
) -> Case:
    kind, *chosen = method
    sizes = [f"task.l2={L2}", f"inner_steps={steps}"]
    overrides = ["task=reweight", *model, *chosen, *sizes, *device]
    return assemble(overrides, source, plain, inner_loss, outer_loss, kind)


def inner_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    losses = cross_entropy(forward(batch["x"]), batch["y"], reduction="none")
    penalty = sum(w.square().sum() for w in z)
    return (outer["weight_logits"].sigmoid() * losses).mean() + L2 * penalty


def outer_loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    return cross_entropy(forward(batch["x"]), batch["y"])

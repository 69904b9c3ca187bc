"""Anti-distillation as a linear-quadratic problem of which everything is known."""

from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.examples.anti_distillation import AntiDistillation

CPU = torch.device("cpu")
LARGEST = 13.217788012699264  # eigenvalue of the inner Hessian
STEP = 1 / LARGEST


class Fourier(AntiDistillation):
    """Anti-distillation with 13 points and 6 frequencies, by default of the three examples."""

    def __init__(self, **examples: list[float]) -> None:
        examples = examples or {"inputs": [-0.55, 0.1, 0.7], "targets": [1.0, -1.0, 0.5]}
        super().__init__(13, 6, examples["inputs"], examples["targets"], CPU)
        self.hessian = self.features.T @ self.features
        self.projector = self.best_response @ self.features  # onto the range of H

    def solved(self, labels: Tensor) -> Params:
        return {"w": self.best_response @ labels}


def implicit(solver: LinearSolver) -> Implicit:
    return Implicit(solver, warm_adjoint=False, curvature="hessian", clip=None)


def slope(
    method: Hypergradient[Any], task: AntiDistillation, labels: Tensor, inner: Params, steps: int
) -> Tensor:
    """An estimate after `steps` gradient steps from `inner`."""
    data = task.sample(steps, torch.Generator())._replace(init=inner)
    loop, outer = InnerLoop(task, GradientDescent(STEP), Cold()), {"labels": labels}
    carry = method.init(outer, loop.fresh(outer, data))
    return method.estimate(loop, outer, data, carry).grad["labels"]


def equilibrium(
    solver: LinearSolver, lr: float, task: Fourier, labels: Tensor | None = None
) -> Tensor:
    """Where outer gradient descent from `labels`, or 0, ends, if each inner problem is solved."""
    u = torch.zeros(13) if labels is None else labels
    for _ in range(20):
        u = u - lr * slope(implicit(solver), task, u, task.solved(u), 1)
    return u

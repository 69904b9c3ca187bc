"""Adam."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, Learned, SolverState, check_lr, counter, value
from bilevel_cli.core.trees import Params


class AdamState(SolverState):
    mean: Params  # of gradients, in the shapes of `inner`
    square: Params  # the mean of their squares, likewise
    count: Tensor  # steps taken, 0-dim


@dataclass(frozen=True)
class Adam(InnerSolver[AdamState]):
    """Adam (Kingma & Ba, 2015, arXiv:1412.6980), as torch.optim.Adam has it.

    Where an entry of the gradient has been zero at every step, the update is zero, and the
    derivative of sqrt(square) is taken for zero: that of a plain sqrt would be NaN.

    Args:
        lr: Step size.
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of squared gradients, in [0, 1).
        eps: Added to the denominator, > 0.
    """

    lr: float | Learned
    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        check_lr("Adam", self.lr)
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"Adam needs {name} in [0, 1), got {name}={beta}.")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"Adam needs a finite eps > 0, got eps={self.eps}. Try 1e-8.")

    def init(self, inner: Params) -> AdamState:
        zero = trees.zeros_like(inner)
        return {"inner": inner, "mean": zero, "square": zero, "count": counter(inner, 0.0)}

    def step(self, oracle: Oracle, state: AdamState) -> AdamState:
        grad = oracle.inner_grad(state["inner"])
        count = state["count"] + 1
        mean = trees.axpy(1 - self.beta1, grad, trees.scale(self.beta1, state["mean"]))
        square = {
            name: self.beta2 * old + (1 - self.beta2) * grad[name] ** 2
            for name, old in state["square"].items()
        }
        lr = value(self.lr, oracle.outer) / (1 - self.beta1**count)
        root_correction = torch.sqrt(1 - self.beta2**count)
        inner = {
            name: z - lr * mean[name] / (_safe_sqrt(square[name]) / root_correction + self.eps)
            for name, z in state["inner"].items()
        }
        return {"inner": inner, "mean": mean, "square": square, "count": count}


def _safe_sqrt(x: Tensor) -> Tensor:
    positive = x > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, x, 1.0)), 0.0)

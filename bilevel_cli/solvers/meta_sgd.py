"""Gradient descent with a learned step size for every entry."""

import math
from dataclasses import dataclass

import torch

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, SolverState
from bilevel_cli.core.trees import Params

PREFIX = "lr."


@dataclass(frozen=True)
class MetaSgd(InnerSolver[SolverState]):
    """z_{t+1} = z_t - lr * grad f(z_t), entry by entry, where `lr` is learned, in the shapes of z.

    Meta-SGD (Li et al., 2017, arXiv:1707.09835), which learns the start too. As there, a step size
    may become negative, so that directions are learned as well as lengths. outer["lr." + name] has
    the shape of inner parameter `name`: twice as many outer parameters as in MAML.

    Args:
        lr: Every step size before the first outer step.
    """

    lr: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(
                f"MetaSgd needs a finite step size lr > 0 to begin with, got lr={self.lr}. "
                "Set solver.lr, e.g. 0.1."
            )

    def init(self, inner: Params) -> SolverState:
        return {"inner": inner}

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        z, grad = state["inner"], oracle.inner_grad(state["inner"])
        lr = trees.under(PREFIX, oracle.outer)
        return {"inner": {n: value - lr[n] * grad[n] for n, value in z.items()}}

    def outer_init(self, inner: Params) -> Params:
        lr = {name: torch.full_like(value, self.lr) for name, value in inner.items()}
        return trees.prefixed(PREFIX, lr)

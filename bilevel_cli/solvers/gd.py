"""Gradient descent."""

from dataclasses import dataclass

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, Learned, SolverState, check_lr, value
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class GradientDescent(InnerSolver[SolverState]):
    """z_{t+1} = z_t - lr * grad f(z_t).

    Args:
        lr: Step size.
    """

    lr: float | Learned

    def __post_init__(self) -> None:
        check_lr("GradientDescent", self.lr)

    def init(self, inner: Params) -> SolverState:
        return {"inner": inner}

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        z = state["inner"]
        return {"inner": trees.axpy(-value(self.lr, oracle.outer), oracle.inner_grad(z), z)}

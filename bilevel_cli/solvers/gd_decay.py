"""Gradient descent with a step size that falls."""

from dataclasses import dataclass

from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.solver import InnerSolver, SolverState, counter
from bilevel_cli.core.trees import Params


class CountedState(SolverState):
    count: Tensor  # steps taken, 0-dim


@dataclass(frozen=True)
class DecayingGradientDescent(InnerSolver[CountedState]):
    """z_{t+1} = z_t - lr(t) * grad f(z_t), counting steps over the life of the state.

    With `start=warm` the count goes on from one outer step to the next. With one inner step, t is
    then the outer step, as in the two-timescale schedules of single-loop methods.

    Args:
        lr: Step size as a function of t.
    """

    lr: PowerLaw

    def init(self, inner: Params) -> CountedState:
        return {"inner": inner, "count": counter(inner, 0.0)}

    def step(self, oracle: Oracle, state: CountedState) -> CountedState:
        z, count = state["inner"], state["count"]
        inner = trees.axpy(-self.lr(count), oracle.inner_grad(z), z)
        return {"inner": inner, "count": count + 1}

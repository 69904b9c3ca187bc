"""Inner solvers that also look at the outer loss."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle, OracleWrapper
from bilevel_cli.core.sets import ConvexSet
from bilevel_cli.core.solver import InnerSolver, SolverState, Wrapper, counter
from bilevel_cli.core.trees import Params, Scalar


@dataclass(frozen=True)
class Aggregated(Wrapper):
    """Any solver, run on inner_weight * f + outer_weight * F.

    Penalty methods use it to follow f + F / multiplier.

    Args:
        base: The solver to run.
        inner_weight: Weight of f.
        outer_weight: Weight of F.
    """

    inner_weight: Scalar
    outer_weight: Scalar

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        return self.base.step(_Blend(oracle, self.inner_weight, self.outer_weight), state)


class AggregationState(SolverState):
    blends: Tensor  # steps taken, 0-dim


@dataclass(frozen=True)
class DescentAggregation(InnerSolver[AggregationState]):
    """Any solver, run on (1 - a_t) * f + a_t * F with a_t = outer_weight * decay^t.

    Bilevel descent aggregation (Liu et al., 2020, arXiv:2006.04045). Where f has several
    minimisers, the inner loop tends to one that the outer loss prefers. As a_t falls to zero, the
    inner problem is solved all the same. Steps are counted over the life of the state: with
    `start=warm`, a_t falls over the whole run.

    Args:
        base: The solver to run.
        outer_weight: Weight of F in the first step, in [0, 1].
        decay: Ratio of the weights of two steps, in [0, 1].
    """

    base: InnerSolver[Any]
    outer_weight: float
    decay: float

    def __post_init__(self) -> None:
        for name, number in (("outer_weight", self.outer_weight), ("decay", self.decay)):
            if not 0 <= number <= 1:
                raise ValueError(
                    f"DescentAggregation needs {name} in [0, 1], got {name}={number}. "
                    f"Set solver.{name}."
                )

    @property
    def within(self) -> ConvexSet | None:
        return self.base.within

    @property
    def no_minimiser(self) -> str:
        return "descent aggregation (BDA), whose inner loop follows a blend of f and F"

    def init(self, inner: Params) -> AggregationState:
        memory: Any = self.base.init(inner)
        return {"inner": inner, **memory, "blends": counter(inner, 0.0)}

    def step(self, oracle: Oracle, state: AggregationState) -> AggregationState:
        count = state["blends"]
        weight = self.outer_weight * self.decay**count
        memory: Any = {name: part for name, part in state.items() if name != "blends"}
        after: Any = self.base.step(_Blend(oracle, 1 - weight, weight), memory)
        return {"inner": after["inner"], **after, "blends": count + 1}


@dataclass(frozen=True)
class _Blend(OracleWrapper):
    inner_weight: Scalar
    outer_weight: Scalar

    def inner_grad(self, inner: Params) -> Params:
        inner_part = trees.scale(self.inner_weight, self.base.inner_grad(inner))
        return trees.axpy(self.outer_weight, self.base.outer_grad(inner), inner_part)

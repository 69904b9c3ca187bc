"""Inner solvers that also look at the outer loss."""

from dataclasses import dataclass

from bilevel_cli import trees
from bilevel_cli.problem import Oracle
from bilevel_cli.solvers.base import OracleWrapper, SolverState, Wrapper
from bilevel_cli.trees import Params, Scalar


@dataclass(frozen=True)
class Aggregated(Wrapper):
    """Any solver, run on inner_weight * f + outer_weight * F.

    Bilevel descent aggregation (Liu et al., 2020, arXiv:2006.04045) blends to choose among
    several inner minimisers; penalty methods blend to follow f + F / multiplier.

    Args:
        base: The solver to run.
        inner_weight: Weight of f.
        outer_weight: Weight of F.
    """

    inner_weight: Scalar
    outer_weight: Scalar

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        return self.base.step(_Blend(oracle, self.inner_weight, self.outer_weight), state)


@dataclass(frozen=True)
class _Blend(OracleWrapper):
    inner_weight: Scalar
    outer_weight: Scalar

    def inner_grad(self, inner: Params) -> Params:
        inner_part = trees.scale(self.inner_weight, self.base.inner_grad(inner))
        return trees.axpy(self.outer_weight, self.base.outer_grad(inner), inner_part)

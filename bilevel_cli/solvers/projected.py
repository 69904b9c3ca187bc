"""Inner problems with constraints."""

import abc
import math
from dataclasses import dataclass

from bilevel_cli.problem import Oracle
from bilevel_cli.solvers.base import SolverState, Wrapper
from bilevel_cli.trees import Params


class ConvexSet(abc.ABC):
    @abc.abstractmethod
    def project(self, point: Params) -> Params:
        """The nearest point of the set."""


@dataclass(frozen=True)
class Box(ConvexSet):
    """{z : low <= z_i <= high}.

    The derivative of the projection is 0 where it clips and 1 elsewhere, on the bound too.

    Args:
        low: Lower bound of every entry; -inf for none.
        high: Upper bound of every entry; inf for none.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if math.isnan(self.low) or math.isnan(self.high) or not self.low < self.high:
            raise ValueError(f"Box needs low < high, got low={self.low}, high={self.high}.")

    def project(self, point: Params) -> Params:
        return {name: value.clamp(self.low, self.high) for name, value in point.items()}


@dataclass(frozen=True)
class Projected(Wrapper):
    """Any solver, with z projected onto a convex set after each step.

    Args:
        base: The solver to run.
        onto: The set.
    """

    onto: ConvexSet

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        stepped: SolverState = self.base.step(oracle, state)
        return {**stepped, "inner": self.onto.project(stepped["inner"])}

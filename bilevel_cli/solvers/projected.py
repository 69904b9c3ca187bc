"""Inner problems with constraints."""

from dataclasses import dataclass

from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.sets import ConvexSet
from bilevel_cli.core.solver import SolverState, Wrapper


@dataclass(frozen=True)
class Projected(Wrapper):
    """Any solver, with z projected onto a convex set after each step.

    Args:
        base: The solver to run.
        onto: The set.
    """

    onto: ConvexSet

    def __post_init__(self) -> None:
        if self.base.within is not None:
            raise ValueError(
                "Projected needs a base without a set of its own, got one within "
                f"{self.base.within}. Give one set, the smaller one."
            )

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        stepped: SolverState = self.base.step(oracle, state)
        return {**stepped, "inner": self.onto.project(stepped["inner"])}

    @property
    def within(self) -> ConvexSet:
        return self.onto

    @property
    def temperature(self) -> float | None:
        return self.base.temperature

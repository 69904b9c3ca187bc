"""Each inner solve begins between the last one and a fresh one."""

from dataclasses import dataclass

from bilevel_cli.core import trees
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Partial(Start):
    """z_0 = keep * (last inner iterate) + (1 - keep) * (fresh start); the solver begins anew.

    keep = 0 is a cold start. keep = 1 is a warm one without the solver's memory.

    Args:
        keep: Weight of the last iterate, in [0, 1].
    """

    keep: float

    remembers = True

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(
                f"Partial needs keep in [0, 1], got keep={self.keep}. Set start.keep, e.g. 0.5."
            )

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        del outer
        begun = trees.scale(1 - self.keep, fresh["inner"])
        return {**fresh, "inner": trees.axpy(self.keep, previous["inner"], begun)}

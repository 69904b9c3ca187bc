"""Each inner solve continues the last one."""

from dataclasses import dataclass

from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Warm(Start):
    """Continues from the last inner iterate, with the solver's memory.

    The hypergradient takes it as a constant: nothing flows into earlier outer steps.
    """

    remembers = True

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        del fresh, outer
        return previous

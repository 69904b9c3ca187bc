"""Every inner solve begins afresh."""

from dataclasses import dataclass

from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Cold(Start):
    """Begins afresh; gradients reach an initialisation that the problem itself learns."""

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        del outer, previous
        return fresh

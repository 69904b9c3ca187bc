"""Every inner solve begins at outer parameters."""

from dataclasses import dataclass

from bilevel_cli.core import trees
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.start import LEARNED_PREFIX, Start
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Learned(Start):
    """The auxiliary initialisation z of IAPTT-GM (Liu et al., 2021, arXiv:2110.00455).

    Each inner parameter starts at the outer parameter `init.` + its name. That one begins at the
    task's own start, and is learned with the other outer parameters by the derivative through the
    inner loop. A task that learns such entries itself keeps them: MAML is this policy where every
    parameter is inner.
    """

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        del previous
        start = trees.under(LEARNED_PREFIX, outer)
        return {**fresh, "inner": {name: start[name] for name in fresh["inner"]}}

    def outer_init(self, data: StepData) -> Params:
        return trees.prefixed(LEARNED_PREFIX, data.init)

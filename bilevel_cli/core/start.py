"""The start policy: what one outer step hands to the next."""

import abc

from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params

# outer["init." + name] is the learned start of inner parameter `name`, whoever contributes it.
LEARNED_PREFIX = "init."


class Start(abc.ABC):
    remembers: bool = False
    """Whether `previous` matters, which is refused where every outer step draws new episodes."""

    @abc.abstractmethod
    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        """Chooses the state from which the inner loop runs; called inside the derivative.

        Args:
            fresh: The state an independent solve would begin from. May depend on `outer`.
            outer: The outer parameters.
            previous: The state at which the last outer step stopped. Constant in `outer`.
        """

    def remember(self, previous: SolverState, finished: SolverState) -> SolverState:
        """What the next outer step is handed as `previous`: unless a policy keeps more, `finished`.

        Args:
            previous: What this outer step was handed.
            finished: The state at which it stopped.
        """
        del previous
        return finished

    def outer_init(self, data: StepData) -> Params:
        """The outer parameters that this policy adds, before the first outer step."""
        del data
        return {}

    def step_size(self) -> float | None:
        """Of the outer parameters that this policy adds; None for that of the optimizer."""
        return None

"""The start policy: what one outer step hands to the next.

Three of them: a cold start begins every inner solve afresh, a warm start goes on from where the
last one stopped, and a learned start begins at outer parameters of its own (`starts/`).
"""

import abc

from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params

# outer["init." + name] is the learned start of inner parameter `name`, whoever contributes it.
LEARNED_PREFIX = "init."


class Start(abc.ABC):
    """Chooses where each inner solve begins. It holds settings and never changes.

    States are those of the inner solver, of one inner problem, on the device and in the precision
    of the outer parameters. A policy changes none of them: it returns others.
    """

    remembers: bool = False
    """Whether `previous` matters, which is refused where every outer step draws new episodes."""

    @abc.abstractmethod
    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        """The state from which the inner loop runs, of the shapes of `fresh`.

        It is called inside the derivative with respect to `outer`, and asks no tensor for its
        value.

        Args:
            fresh: The state from which an independent solve would begin. May depend on `outer`.
            outer: The outer parameters.
            previous: The state at which the last outer step stopped. Constant in `outer`.
        """

    def remember(self, previous: SolverState, finished: SolverState) -> SolverState:
        """What the next outer step is given as `previous`: unless a policy keeps more, `finished`.

        Args:
            previous: What this outer step was given.
            finished: The state at which it stopped.
        """
        del previous
        return finished

    def holds(self, sizes: Sizes) -> Parts:
        """What it remembers besides one state, as `Hypergradient.holds`."""
        del sizes
        return ()

    def outer_init(self, data: StepData) -> Params:
        """The outer parameters that this policy adds, before the first outer step.

        Args:
            data: The data of one inner problem, without a dimension of episodes.
        """
        del data
        return {}

    def step_size(self) -> float | None:
        """The optimizer's step size for the outer parameters that this policy adds.

        None for the step size of all other outer parameters.
        """
        return None

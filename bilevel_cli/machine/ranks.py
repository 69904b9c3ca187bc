"""Ranks: the processes that share the outer steps of one run.

A run asks its ranks and never how many there are. One process alone is `ALONE`. Several are
`bilevel_cli.machine.processes.Processes`, which share the episodes of an outer step; around them,
`bilevel_cli.machine.minibatches.Minibatches` shares the examples of a single inner problem. Another
way for processes to talk is another class of `Ranks`, in a file beside these two, and the line in
`joining` that chooses it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params, Tree

T = TypeVar("T")


class RankLost(ConnectionError):
    """Another rank ended, so this one cannot go on.

    Attributes:
        unsaid: Whether nobody else tells the user.
    """

    unsaid = False


class Ranks(ABC):
    """The processes that share the outer steps of a run, as one of them sees them.

    Each rank estimates its part of the episodes. All ranks draw the same data from generators in
    the same state, and take the same step of the optimizer with the gradient of all episodes. So an
    outer step of several ranks is that of one process, to rounding. What a method remembers of an
    episode stays with the rank that has the episode, until a checkpoint or an evaluation asks for
    the whole. The first rank alone writes files.

    All ranks must make the same calls in the same order: where one of them calls `once`, `total`,
    `whole` or a shared outer step, it waits for the others to do so too. Each of these four raises
    `RankLost` where another rank has ended.

    Attributes:
        count: How many ranks there are.
        first: Whether this is the rank that writes.
        exchanges_within: Whether ranks exchange in the midst of an outer step, which nothing can
            capture then.
    """

    count: int
    first: bool
    exchanges_within = False

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raises ValueError where the task has no episode for each rank."""

    def fits(  # noqa: B027 - most ranks share whatever a method computes
        self, method: Hypergradient[Any], loop: InnerLoop, outer: Params, data: StepData
    ) -> None:
        """Raises ValueError, before any work, where ranks cannot share what a method computes.

        Args:
            method: The method.
            loop: The inner loop.
            outer: The outer parameters before the first step.
            data: The data of one inner problem: no episode dimension.
        """

    def posed(self, loop: InnerLoop) -> InnerLoop:
        """The inner loop of which this rank computes its part, in a shared outer step."""
        return loop

    @abstractmethod
    def agree(self, found: Estimate | Exception) -> Estimate:
        """`found`, where no rank has failed. Tells all ranks of the signals of each.

        Args:
            found: This rank's estimate, or its error.

        Raises:
            Exception: That of the lowest rank that has one.
        """

    @abstractmethod
    def shared(self, step: OuterStep) -> OuterStep:
        """The outer step of which each rank computes its part.

        Args:
            step: An outer step over the episodes that it is given. Where there are several ranks it
                returns sums over these episodes, and not means.

        Returns:
            An outer step that takes the data of all episodes and the memory of this rank's
            episodes. It returns means over all episodes, and the memory of this rank's. All ranks
            raise the error of one.
        """

    @abstractmethod
    def part(self, tree: Tree) -> Tree:
        """This rank's episodes, of a tree of tensors [all episodes, ...]."""

    @abstractmethod
    def whole(self, tree: Tree) -> Tree:
        """All episodes, of a tree of tensors [this rank's episodes, ...]."""

    @abstractmethod
    def total(self, x: Tensor) -> Tensor:
        """The sum over ranks of a tensor that has one shape on all of them."""

    @abstractmethod
    def once(self, fn: Callable[[], T]) -> T:
        """What `fn` returns on the first rank, the only one that calls it. All raise its error.

        Args:
            fn: Returns nested dicts, lists and tuples of tensors, numbers, strings and None.
        """

    @abstractmethod
    def agreed(self, requests: list[int]) -> list[int]:
        """A list of the signals that all ranks know of, so that all stop after the same step.

        Args:
            requests: The signals that this process received. It may grow later, and so may the
                returned list: at each shared outer step.
        """

    def alike(self) -> bool:
        """Whether all ranks come here: whether what this one has met, another error say, all have.

        Raises:
            RankLost: One of them failed otherwise.
        """
        return True

    def share(self, data: StepData) -> StepData:
        """This rank's episodes, of the data of all. Noise is left whole: it has no episodes."""
        parts = {name: self.part(x) for name, x in data._asdict().items() if name != "noise"}
        return data._replace(**parts)


class Undivided(Ranks):
    """Ranks of which each has all inner problems: what it computes is whole as it is."""

    def part(self, tree: Tree) -> Tree:
        return tree

    def whole(self, tree: Tree) -> Tree:
        return tree

    def total(self, x: Tensor) -> Tensor:
        return x


class Alone(Undivided):
    """One process, which exchanges nothing."""

    count = 1
    first = True

    def check(self, task: Task) -> None:
        pass

    def shared(self, step: OuterStep) -> OuterStep:
        return step

    def agree(self, found: Estimate | Exception) -> Estimate:
        if isinstance(found, Exception):
            raise found
        return found

    def once(self, fn: Callable[[], T]) -> T:
        return fn()

    def agreed(self, requests: list[int]) -> list[int]:
        return requests


ALONE = Alone()


def cut(x: Tensor, rank: int, count: int) -> Tensor:
    """The rows of a tensor [n, ...] that one of `count` ranks has; numbers differ by 1 at most.

    Of a tensor without a dimension each has the whole.
    """
    if not x.dim():
        return x
    start, stop = (x.shape[0] * number // count for number in (rank, rank + 1))
    return x[start:stop]

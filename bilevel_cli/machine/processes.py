"""One run by several processes, which exchange by torch.distributed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.host import is_host, on_host
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.machine import messages
from bilevel_cli.machine.news import News, Watch, finish
from bilevel_cli.machine.ranks import RankLost, Ranks, cut
from bilevel_cli.machine.signals import SIGNALS

T = TypeVar("T")

NUMBERS = 32  # places for the loss and for what a method reports: all ranks send one length


class Processes(Ranks):
    """Several processes, started by torchrun.

    They meet in each outer step. First they tell each other, from host to host, which signals
    arrived and who failed: a process whose GPU has failed can do that too. Then they add up one
    buffer: the loss, what the method reports and the outer gradient.

    Args:
        rank: The number of this process.
        count: How many there are, 2 or more.
        news: Of ranks that have ended; None for none.
        watch: Over exchanges between GPUs; None where there are no GPUs.
    """

    def __init__(
        self, rank: int, count: int, news: News | None = None, watch: Watch | None = None
    ) -> None:
        self.rank, self.count, self.first = rank, count, rank == 0
        self._news, self._watch = news, watch
        self._asked: list[int] = []
        self._agreed: list[int] = []

    def check(self, task: Task) -> None:
        assert task.episodes is not None  # else they share minibatches
        if task.episodes < self.count:
            raise ValueError(
                f"{self.count} processes need an episode each, got task.episodes={task.episodes}. "
                f"Use torchrun --nproc-per-node={task.episodes}, or raise task.episodes."
            )

    def agreed(self, requests: list[int]) -> list[int]:
        self._asked, self._agreed = requests, []
        return self._agreed

    def shared(self, step: OuterStep) -> OuterStep:
        def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
            own: Estimate | Exception
            try:
                own = step(outer, self.share(data), carry)
            except Exception as error:
                own = error
            found = self.agree(own)
            buffer = self.total(_packed(found, outer))
            self._finish(buffer)
            episodes = next(iter(data.inner.values())).shape[0]
            return _unpacked(buffer / episodes, outer, found)

        return estimate

    def agree(self, found: Estimate | Exception) -> Estimate:
        own = found if isinstance(found, Exception) else None
        if isinstance(found, Estimate):
            try:
                self._finish(found.loss)
            except Exception as error:
                own = error
        if own is not None and self._aborted:  # all kinds of errors come behind a lost exchange
            raise self._loss() from own
        flags = torch.tensor([signum in self._asked for signum in SIGNALS] + [own is not None])
        told = flags.int()
        try:
            with self._company():
                dist.all_reduce(told)
            *asked, failures = told.tolist()
            if failures:
                self._raise_first(own)
        except RankLost:
            if own is not None:  # which says more
                raise own from None
            raise
        if not self._agreed:
            self._agreed += [s for s, some in zip(SIGNALS, asked, strict=True) if some]
        assert isinstance(found, Estimate)
        return found

    def alike(self) -> bool:
        if self._news is None or self._news.meet():
            return True
        if self._news.told():  # which says more
            raise self._loss()
        return False

    def part(self, tree: Tree) -> Tree:
        return trees.map_leaves(lambda x: cut(x, self.rank, self.count), tree)

    def whole(self, tree: Tree) -> Tree:
        # Copies: torch.save would write what a view was cut from.
        copies = iter(on_host(trees.leaves(tree)))
        parts = self._gather(trees.map_leaves(lambda x: next(copies), tree))
        return trees.map_leaves(
            lambda x, *xs: torch.cat(xs).to(x.device, non_blocking=True), tree, *parts
        )

    def total(self, x: Tensor) -> Tensor:
        with self._company():
            dist.all_reduce(x)
        if self._watch is not None and not is_host(x.device):
            self._watch.begin()  # and the host goes on
        return x

    def once(self, fn: Callable[[], T]) -> T:
        found: list[Any] = [None, None]
        if self.first:
            try:
                found = [fn(), None]
            except Exception as error:
                with self._company():
                    messages.broadcast([None, messages.described(error, "On rank 0")])
                raise
        with self._company():
            result, refusal = messages.broadcast(found)
        if refusal is not None:
            raise messages.error_of(refusal)
        return result

    def _finish(self, x: Tensor) -> None:
        """Waits until a GPU has computed `x`, where the host is to read what all decide by.

        Raises:
            RankLost: Another rank ended meanwhile, so that `x` is not what it should be.
            Exception: The GPU failed.
        """
        finish(x.device)
        if self._aborted:
            raise self._loss()
        self._rest()

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.rest()

    @property
    def _aborted(self) -> bool:
        return self._watch is not None and self._watch.lost

    def _raise_first(self, own: Exception | None) -> NoReturn:
        """Raises the error of the lowest rank that has one. All ranks call it, with their own."""
        described = None if own is None else messages.described(own, f"On rank {self.rank}")
        raise messages.error_of(next(one for one in self._gather(described) if one))

    def _gather(self, value: Any) -> list[Any]:
        with self._company():
            return messages.gather(value)

    @contextlib.contextmanager
    def _company(self) -> Iterator[None]:
        """Raises `RankLost` for an exchange within that fails."""
        try:
            yield
            self._rest()
        except RuntimeError as error:
            raise self._loss() from error

    def _loss(self) -> RankLost:
        texts = self._news.told() if self._news else {}
        said = [f"rank {rank}, {text.splitlines()[-1]}" for rank, text in texts.items()]
        lost = RankLost(
            f"A run needs all its {self.count} processes, got one that "
            f"{'ended: ' + '; '.join(said) if said else 'was killed or hangs'}. "
            "The same command in the same directory continues from the last checkpoint."
        )
        for rank, text in texts.items():
            lost.add_note(f"On rank {rank}: {text}")
        return lost


def _packed(found: Estimate, outer: Params) -> Tensor:
    """The loss, the metrics and the gradient of an estimate as one vector.

    Its length is NUMBERS plus the number of outer parameters, on every rank.

    Raises:
        ValueError: The method reports more metrics than there are places.
    """
    some = next(iter(outer.values()))
    numbers = torch.stack([found.loss, *found.metrics.values()]).to(some)
    if (missing := NUMBERS - len(numbers)) < 0:
        raise ValueError(
            f"Several processes exchange at most {NUMBERS - 1} metrics of a method, got "
            f"{len(found.metrics)}. Use one process."
        )
    grad, _ = trees.ravel({name: found.grad[name] for name in outer})
    return torch.cat([numbers, some.new_zeros(missing), grad])


def _unpacked(buffer: Tensor, outer: Params, like: Estimate) -> Estimate:
    """The estimate in a buffer of `_packed`, with the memory and the names of metrics of `like`."""
    _, unravel = trees.ravel(outer)
    loss, *metrics = buffer[: 1 + len(like.metrics)].unbind()
    grad = unravel(buffer[NUMBERS : NUMBERS + trees.size(outer)])
    return Estimate(grad, loss, like.carry, dict(zip(like.metrics, metrics, strict=True)))

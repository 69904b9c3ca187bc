"""One run by several processes, the ranks, each of which estimates its share of the episodes."""

import contextlib
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from bilevel_cli.core import trees
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.machine import messages, place
from bilevel_cli.machine.signals import SIGNALS

T = TypeVar("T")

NUMBERS = 32  # places for the loss and for what a method reports: all ranks send one length
# One that died is noticed at once, by its closed connection. This is for one that hangs, and more
# than a checkpoint takes on a slow disk, or compiling.
PATIENCE = timedelta(minutes=30)

_led = False  # whether this process has called upon the others


class RankLost(ConnectionError):
    """Another rank ended, so that this one cannot go on."""


class Ranks:
    """The ranks of a run, as one of them sees them.

    All draw the same data by the same generators, and take the same optimizer's step: so an outer
    step is that of one process, to rounding. They meet once in each, in a sum over ranks of the
    outer gradient, the loss, the metrics and the signals that arrived, in one buffer. What a method
    remembers of its episodes stays with the rank that has them until a checkpoint or an evaluation
    asks for the whole. The first rank alone writes.

    Args:
        rank: The number of this one.
        count: Of the ranks. One alone exchanges nothing.
        said: Why others failed, as far as they said it, by rank.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, said: Callable[[], dict[int, str]] = dict
    ) -> None:
        self.rank, self.count, self._said = rank, count, said
        self._asked: list[int] = []
        self._agreed: list[int] = []

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def check(self, task: Task) -> None:
        """Raises ValueError where there is not an episode for each rank."""
        if self.count == 1:
            return
        if task.episodes is None:
            raise ValueError(
                "Several processes need episodes to share, got "
                f"{type(task).__name__}, which has a single inner problem. Use a task with "
                "episodes, such as task=meta; or one process, in which replicas=N takes N seeds "
                "together."
            )
        if task.episodes < self.count:
            raise ValueError(
                f"{self.count} processes need an episode each, got task.episodes={task.episodes}. "
                f"Use torchrun --nproc-per-node={task.episodes}, or raise task.episodes."
            )

    def agreed(self, requests: list[int]) -> list[int]:
        """The signals that all ranks know of, so that all stop after the same step.

        Args:
            requests: Those that this process has received so far.
        """
        if self.count == 1:
            return requests
        self._asked, self._agreed = requests, []
        return self._agreed

    def shared(self, step: OuterStep) -> OuterStep:
        """The outer step of which each rank takes its share.

        Args:
            step: An outer step over episodes, which returns sums over them.

        Returns:
            One that takes the data of all episodes and the memory of this rank's, and returns means
            over all episodes and the memory of this rank's. An error of one rank is raised by all.
        """
        if self.count == 1:
            return step

        def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
            found: Estimate | Exception
            try:
                found = step(outer, self.share(data), carry)
                buffer = _packed(found, outer)
            except Exception as error:
                found, buffer = error, _packed(None, outer)
            some = next(iter(outer.values()))
            flags = [float(signum in self._asked) for signum in SIGNALS]
            flags.append(float(isinstance(found, Exception)))
            buffer = torch.cat([buffer, torch.tensor(flags).to(some)])
            with self._company():
                dist.all_reduce(buffer)
            # The host waits here for a GPU: what it reads decides whether there is another step.
            *asked, failed = buffer[-len(flags) :].tolist()
            if failed:
                self._raise_first(found)
            assert isinstance(found, Estimate)
            if not self._agreed:
                self._agreed += [
                    signum for signum, count in zip(SIGNALS, asked, strict=True) if count
                ]
            episodes = next(iter(data.inner.values())).shape[0]
            return _unpacked(buffer / episodes, outer, found)

        return estimate

    def part(self, tree: Tree) -> Tree:
        """The episodes of this rank, of a tree that has all in its leading dimension."""

        def mine(x: Tensor) -> Tensor:
            start, stop = (x.shape[0] * rank // self.count for rank in (self.rank, self.rank + 1))
            return x[start:stop]

        return tree if self.count == 1 else trees.map_leaves(mine, tree)

    def share(self, data: StepData) -> StepData:
        """The data of the episodes of this rank, of those of all; noise belongs to no episode."""
        parts = {n: self.part(p) for n, p in data._asdict().items() if n != "noise"}
        return data._replace(**parts)

    def total(self, x: Tensor) -> Tensor:
        """The sum over ranks of a tensor of which each has its own, of one shape; all must ask."""
        if self.count > 1:
            with self._company():
                dist.all_reduce(x)
        return x

    def whole(self, tree: Tree) -> Tree:
        """All episodes, of a tree of which each rank has its own; all must ask."""
        if self.count == 1:
            return tree
        # Cloned: torch.save would write what a view was cut from.
        parts = self._gather(trees.map_leaves(lambda x: x.cpu().clone(), tree))
        return trees.map_leaves(lambda x, *xs: torch.cat(xs).to(x.device), tree, *parts)

    def once(self, fn: Callable[[], T]) -> T:
        """What `fn` returns or raises where the first rank calls it; all must ask."""
        if self.count == 1:
            return fn()
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

    def _raise_first(self, found: Any) -> NoReturn:
        """Raises the error of the first rank that has one, by all of them."""
        own = None
        if isinstance(found, Exception):
            own = messages.described(found, f"On rank {self.rank}")
        raise messages.error_of(next(error for error in self._gather(own) if error is not None))

    def _gather(self, value: Any) -> list[Any]:
        with self._company():
            return messages.gather(value)

    @contextlib.contextmanager
    def _company(self) -> Iterator[None]:
        """Says of a failed exchange what it means."""
        try:
            yield
        except RuntimeError as error:
            raise self._loss() from error

    def _loss(self) -> RankLost:
        texts = self._said()
        said = [f"rank {rank}, {text.splitlines()[-1]}" for rank, text in texts.items()]
        lost = RankLost(
            f"A run needs all its {self.count} processes, got one that ended"
            f"{': ' + '; '.join(said) if said else ', killed perhaps'}. "
            "The same command in the same directory continues from the last checkpoint."
        )
        for rank, text in texts.items():
            lost.add_note(f"On rank {rank}: {text}")
        return lost


ALONE = Ranks()


@contextlib.contextmanager
def leading(given: Callable[[], Any]) -> Iterator[Ranks]:
    """The ranks of a run: one, unless torchrun started others, which are `following`.

    Args:
        given: Makes what those are given.
    """
    global _led
    if place.here().count == 1:
        yield ALONE
        return
    _led = True
    with _group() as ranks:
        ranks.once(given)
        yield ranks


@contextlib.contextmanager
def following() -> Iterator[tuple[Ranks, Any]]:
    """The ranks of a run, and what the first of them has given; None where it leads none."""
    with _group() as ranks:
        yield ranks, ranks.once(lambda: None)


def dismiss() -> None:
    """Lets go of the other processes, where this one had nothing for them to do."""
    if not _led:
        with leading(lambda: None):
            pass


@contextlib.contextmanager
def _group() -> Iterator[Ranks]:
    """Joins the other ranks, and leaves them: together, unless something failed."""
    here = place.here()
    if here.count == here.local_count:
        _stay_inside()
    base, _, _ = next(rendezvous("env://", here.rank, here.count, timeout=PATIENCE))
    # Where torchrun starts processes again, the store still has the addresses of those before.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"bilevel/{attempt}", base)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=here.rank, world_size=here.count, timeout=PATIENCE
    )

    def said() -> dict[int, str]:
        with contextlib.suppress(RuntimeError):  # the store may have ended too
            failed = [r for r in range(here.count) if store.check([f"failed/{r}"])]
            return {rank: store.get(f"failed/{rank}").decode() for rank in failed}
        return {}

    try:
        yield Ranks(here.rank, here.count, said)
        # One that left earlier would close connections on which another still waits.
        with contextlib.suppress(RuntimeError):
            dist.barrier()
    except BaseException as error:
        if here.rank and not isinstance(error, RankLost):  # the first one speaks for itself
            with contextlib.suppress(RuntimeError):
                store.set(f"failed/{here.rank}", "".join(traceback.format_exception(error)))
        raise
    finally:
        dist.destroy_process_group()


def _stay_inside() -> None:
    """Has processes of one machine talk over its loopback interface, where nobody else listens."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if names else ():
        os.environ.setdefault(variable, names[0])


def _packed(found: Estimate | None, outer: Params) -> Tensor:
    """The loss, the metrics and the gradient of an estimate in one vector; zeros for none."""
    some = next(iter(outer.values()))
    if found is None:
        return some.new_zeros(NUMBERS + trees.size(outer))
    numbers = torch.stack([found.loss, *found.metrics.values()]).to(some)
    if (missing := NUMBERS - len(numbers)) < 0:
        raise ValueError(
            f"Several processes exchange at most {NUMBERS - 1} metrics of a method, got "
            f"{len(found.metrics)}. Use one process."
        )
    grad, _ = trees.ravel({name: found.grad[name] for name in outer})
    return torch.cat([numbers, some.new_zeros(missing), grad])


def _unpacked(buffer: Tensor, outer: Params, like: Estimate) -> Estimate:
    _, unravel = trees.ravel(outer)
    loss, *metrics = buffer[: 1 + len(like.metrics)].unbind()
    grad = unravel(buffer[NUMBERS : NUMBERS + trees.size(outer)])
    return Estimate(grad, loss, like.carry, dict(zip(like.metrics, metrics, strict=True)))

"""One run by several processes, which exchange by torch.distributed; how they join and leave."""

import contextlib
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from bilevel_cli.core import trees
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.host import on_host
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.machine import messages, place
from bilevel_cli.machine.ranks import ALONE, RankLost, Ranks
from bilevel_cli.machine.signals import SIGNALS

T = TypeVar("T")

NUMBERS = 32  # places for the loss and for what a method reports: all ranks send one length
# A process that died is noticed at once, by its closed connection. This limit is for a process that
# hangs: longer than a checkpoint takes on a slow disk, and longer than compiling.
PATIENCE = timedelta(minutes=30)

_led = False  # whether this process has called upon the others


class Processes(Ranks):
    """Several processes, started by torchrun.

    They meet once in each outer step, in one sum over ranks of one buffer: the loss, what the
    method reports, the outer gradient, the signals that arrived, and whether a rank failed.

    Args:
        rank: The number of this process.
        count: How many there are, 2 or more.
        said: Returns the tracebacks of the ranks that failed and could say so, by rank.
    """

    def __init__(self, rank: int, count: int, said: Callable[[], dict[int, str]] = dict) -> None:
        self.rank, self.count, self.first = rank, count, rank == 0
        self._said = said
        self._asked: list[int] = []
        self._agreed: list[int] = []

    def check(self, task: Task) -> None:
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
        self._asked, self._agreed = requests, []
        return self._agreed

    def shared(self, step: OuterStep) -> OuterStep:
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
        def mine(x: Tensor) -> Tensor:
            start, stop = (x.shape[0] * rank // self.count for rank in (self.rank, self.rank + 1))
            return x[start:stop]

        return trees.map_leaves(mine, tree)

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

    def _raise_first(self, found: Any) -> NoReturn:
        """Raises the error of the lowest rank that has one. All ranks call it.

        Args:
            found: What this rank found; an Exception where it failed.
        """
        own = None
        if isinstance(found, Exception):
            own = messages.described(found, f"On rank {self.rank}")
        raise messages.error_of(next(error for error in self._gather(own) if error is not None))

    def _gather(self, value: Any) -> list[Any]:
        with self._company():
            return messages.gather(value)

    @contextlib.contextmanager
    def _company(self) -> Iterator[None]:
        """Raises `RankLost` for an exchange within that fails."""
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


@contextlib.contextmanager
def leading(given: Callable[[], Any]) -> Iterator[Ranks]:
    """The ranks of a run, in its first process: `ALONE` where torchrun started no others.

    Args:
        given: Makes what the other processes, which are `following`, are given.
    """
    global _led
    if place.here().count == 1:
        yield ALONE
        return
    _led = True
    with _joined() as ranks:
        ranks.once(given)
        yield ranks


@contextlib.contextmanager
def following() -> Iterator[tuple[Ranks, Any]]:
    """The ranks of a run, in its other processes, and what the first has given.

    None is given where the first process leads no run.
    """
    with _joined() as ranks:
        yield ranks, ranks.once(lambda: None)


def dismiss() -> None:
    """Lets the other processes end, where this one led no run."""
    if not _led:
        with leading(lambda: None):
            pass


def _joined() -> AbstractContextManager[Ranks]:
    """Joins the other processes for as long as the context lasts."""
    return _by_torch_distributed()  # the line that chooses how processes talk


@contextlib.contextmanager
def _by_torch_distributed() -> Iterator[Ranks]:
    """Joins the other processes, and leaves when all do, unless something failed."""
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
        yield Processes(here.rank, here.count, said)
        # Who left earlier would close connections on which others still wait.
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
    """Has processes of one machine talk over its loopback interface, out of hearing of others."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if names else ():
        os.environ.setdefault(variable, names[0])


def _packed(found: Estimate | None, outer: Params) -> Tensor:
    """The loss, the metrics and the gradient of an estimate as one vector; zeros without one.

    Its length is NUMBERS plus the number of outer parameters, on every rank.

    Raises:
        ValueError: The method reports more metrics than there are places.
    """
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
    """The estimate in a buffer of `_packed`, with the memory and the names of metrics of `like`."""
    _, unravel = trees.ravel(outer)
    loss, *metrics = buffer[: 1 + len(like.metrics)].unbind()
    grad = unravel(buffer[NUMBERS : NUMBERS + trees.size(outer)])
    return Estimate(grad, loss, like.carry, dict(zip(like.metrics, metrics, strict=True)))

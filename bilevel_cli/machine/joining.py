"""How the processes of one run join, and how they leave."""

import contextlib
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from bilevel_cli.machine import place
from bilevel_cli.machine.news import News, Watch, within
from bilevel_cli.machine.processes import Processes
from bilevel_cli.machine.ranks import ALONE, RankLost, Ranks

# A process that died is noticed at once, by its closed connection. This limit is for a process that
# hangs: longer than a checkpoint takes on a slow disk, and longer than compiling.
PATIENCE = timedelta(minutes=30)
LEAVING = 10.0  # seconds in which a GPU that failed may give its exchanges up

# What torch's own watchdog does where an exchange between GPUs fails: it ends the process, from a
# thread, before Python can say why. `Watch` is there instead.
WATCHDOG = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0"}

_led = False  # whether this process has called upon the others


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

    Raises:
        RankLost: Another process has ended. It has `unsaid` set where the first process did not
            tell the user why, and so this one has to.
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
    gpus = torch.cuda.is_available()
    if gpus:
        for name, value in WATCHDOG.items():
            os.environ.setdefault(name, value)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(
        backend, store=store, rank=here.rank, world_size=here.count, timeout=PATIENCE
    )
    news = News(store, here.rank, here.count)
    watch = Watch(news.lost, _abort, PATIENCE) if gpus else None
    try:
        with watch or contextlib.nullcontext():
            yield Processes(here.rank, here.count, news, watch)
            # Who left earlier would close connections on which others still wait.
            with contextlib.suppress(RuntimeError):
                dist.all_reduce(torch.zeros(1))
    except BaseException as error:
        _leave_word(news, here.rank, error)
        if gpus:  # one that has failed may never answer
            within(LEAVING, _abort)
            within(LEAVING, dist.destroy_process_group)
        else:
            dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()


def _leave_word(news: News, rank: int, error: BaseException) -> None:
    if rank == 0:  # it speaks for itself
        news.speak()
    elif isinstance(error, RankLost):
        error.unsaid = not news.first_speaks()
    else:
        news.tell("".join(traceback.format_exception(error)))


def _abort() -> None:
    """Ends the exchanges between GPUs, which then never complete."""
    world = dist.group.WORLD
    if world is not None:
        world._get_backend(torch.device("cuda")).abort()


def _stay_inside() -> None:
    """Has processes of one machine talk over its loopback interface, out of hearing of others."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if names else ():
        os.environ.setdefault(variable, names[0])

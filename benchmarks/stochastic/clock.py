"""Seconds of ours and of the peers, one after the other in one process, on one core."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.stochastic import programs
from bilevel_cli.loggers.base import Logger
from bilevel_cli.records.table import Row

OURS = "ours"
Seconds = tuple[float, float]  # wall, CPU of all threads and of the children that have ended
Chunk = Callable[[], None]  # as many outer steps as there are between two rows of ours


def now() -> Seconds:
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def since(begin: Seconds) -> Seconds:
    wall, cpu = now()
    return wall - begin[0], cpu - begin[1]


def compiled(program: tuple[Callable[..., Any], Any]) -> Chunk:
    """A chunk of a peer, which goes on where it stopped."""
    run, carry = program

    def chunk() -> None:
        nonlocal carry
        carry = programs.waited(run(carry))

    return chunk


class Turns(Logger):
    """Times the outer steps of a run from row to row; at each row it is the turn of the peers.

    The first chunk of each holds its compilation.

    Args:
        peers: Chunks by name.

    Attributes:
        seconds: By name, of each chunk.
    """

    def __init__(self, peers: dict[str, Chunk]) -> None:
        self.peers = peers
        self.seconds: dict[str, list[Seconds]] = {name: [] for name in (OURS, *peers)}
        self._begin = now()

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        del directory, settings, step

    def write(self, table: str, row: Row) -> None:
        del row
        if table == "train":
            self.seconds[OURS].append(since(self._begin))
            for name, chunk in self.peers.items():
                begin = now()
                chunk()
                self.seconds[name].append(since(begin))
        self._begin = now()  # after the scores of the start too

    def end(self, status: str) -> None:
        del status

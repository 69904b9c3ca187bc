"""Commands by several processes each, as torchrun starts them, but with everything imported.

    python ranking.py COMMANDS

takes them as JSON, one after the other, and prints as JSON how each ended: the exit codes of its
processes, negative where a signal ended one, and the seconds since the signal that it was sent.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sklearn.datasets
import torch._dynamo  # by torch.optim, at the first optimizer
from forking import carry_out, finish

from bilevel_cli import experiment, ranks
from bilevel_cli.data import digits
from bilevel_cli.tasks import meta

assert all((sklearn.datasets, torch._dynamo, experiment, ranks, digits, meta))


@dataclass(frozen=True)
class Command:
    """A run, and what happens to it.

    Attributes:
        folder: Of the run; what it prints goes to a file beside it.
        overrides: The other arguments.
        count: Processes.
        signum: The signal that some of them are sent, if any.
        ranks: Theirs.
        rows: Of train.csv, that there are before.
        whole: Whether its processes end as Python's do, which takes seconds.
    """

    folder: str
    overrides: Sequence[str]
    count: int = 2
    signum: int | None = None
    ranks: Sequence[int] = ()
    rows: int = 0
    whole: bool = False


def run(command: Command) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(command, rank, port) for rank in range(command.count)]
    since = time.monotonic()
    if command.signum is not None:
        _await_rows(Path(command.folder) / "train.csv", command.rows)
        since = time.monotonic()
        for rank in command.ranks:
            os.kill(children[rank], command.signum)
    codes = list(map(finish, children))
    return {"codes": codes, "seconds": round(time.monotonic() - since, 1)}


def _fork(command: Command, rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    signal.alarm(180)  # processes that wait for one another would do so for half an hour
    count = str(command.count)
    os.environ |= {"TORCHELASTIC_RUN_ID": "forked", "RANK": str(rank), "WORLD_SIZE": count}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": count}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    output = Path(f"{command.folder}.rank{rank}.out")
    carry_out(Path(command.folder), command.overrides, output, command.whole)


def _await_rows(path: Path, rows: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") <= rows:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has not {rows} rows.")
        time.sleep(0.002)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    outcomes = [run(Command(**given)) for given in json.loads(sys.argv[1])]
    print(json.dumps(outcomes))

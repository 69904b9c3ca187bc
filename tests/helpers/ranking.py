"""Commands by several processes each, as torchrun starts them, but with everything imported.

    python ranking.py COMMANDS

takes them as JSON, one after the other, and prints as JSON how each ended: the exit codes of its
processes, negative where a signal ended one.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sklearn.datasets
import torch._dynamo  # by torch.optim, at the first optimizer
from forking import carry_out, finish

from bilevel_cli.data import digits
from bilevel_cli.machine import joining, news
from bilevel_cli.records.table import Row
from bilevel_cli.runs import entry
from bilevel_cli.runs.rows import Rows
from bilevel_cli.tasks.few_shot import classification

assert all((sklearn.datasets, torch._dynamo, entry, joining, digits, classification))


@dataclass(frozen=True)
class Command:
    """A run, and what happens to it.

    Attributes:
        folder: Of the run; what it prints goes to a file beside it.
        overrides: The other arguments.
        count: Processes.
        signum: The signal that some of them send themselves, if any.
        ranks: Theirs.
        rows: Of train.csv, behind which they do. Sent from outside, it may come after the end.
        whole: Whether its processes end as Python's do, which takes seconds.
        patience: Seconds that processes wait for one that hangs; None for as long as always.
    """

    folder: str
    overrides: Sequence[str]
    count: int = 2
    signum: int | None = None
    ranks: Sequence[int] = ()
    rows: int = 0
    whole: bool = False
    patience: float | None = None


def run(command: Command) -> dict[str, list[int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(command, rank, port) for rank in range(command.count)]
    stopped = list(command.ranks) if command.signum == signal.SIGSTOP else []
    codes = {rank: finish(child) for rank, child in enumerate(children) if rank not in stopped}
    for rank in stopped:  # nothing else ends it
        os.kill(children[rank], signal.SIGKILL)
        codes[rank] = finish(children[rank])
    return {"codes": [codes[rank] for rank in range(command.count)]}


def _fork(command: Command, rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    signal.alarm(600)  # processes that wait for one another would do so for half an hour
    count = str(command.count)
    os.environ |= {"TORCHELASTIC_RUN_ID": "forked", "RANK": str(rank), "WORLD_SIZE": count}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": count}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    output = Path(f"{command.folder}.rank{rank}.out")
    if command.patience is not None:
        joining.PATIENCE = timedelta(seconds=command.patience)
        news.SOON = joining.PATIENCE / 10
    if command.signum is not None and rank in command.ranks:
        _signal_after(command.rows, command.signum)
    carry_out(Path(command.folder), command.overrides, output, command.whole)


def _signal_after(count: int, signum: int) -> None:
    """Has this process send itself a signal where it has reported so many rows of train.csv."""
    write = Rows.write

    def signalling(rows: Rows, name: str, row: Row) -> None:
        write(rows, name, row)
        if name == "train" and rows.count["train"] == count:
            os.kill(os.getpid(), signum)

    setattr(Rows, "write", signalling)  # noqa: B010 - mypy takes methods for constants


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    outcomes = [run(Command(**given)) for given in json.loads(sys.argv[1])]
    print(json.dumps(outcomes))

"""What torchrun tells the processes that it starts.

Imports no torch: a command that is asked for help answers at once.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bilevel_cli.errors import UsageError


@dataclass(frozen=True)
class Place:
    """One process among those of a run.

    Attributes:
        rank: Its number; 0 is the one that composes the configuration and writes the files.
        count: Of the processes.
        local_rank: Its number on its machine, and that of its GPU.
        local_count: Of the processes on its machine.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int


def place() -> Place:
    """That of this process: alone, unless torchrun started it."""
    # By its own variable: others, such as schedulers, set RANK and WORLD_SIZE too.
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place(0, 1, 0, 1)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))


def check_command_line(arguments: Iterable[str]) -> None:
    """Raises UsageError where several processes are to take the jobs of a sweep."""
    for argument in arguments if place().count > 1 else ():
        name, _, value = argument.partition("=")
        if name in ("-m", "--multirun") or (name == "hydra.mode" and value.upper() == "MULTIRUN"):
            raise UsageError(
                f"torchrun needs a command for one run, which its processes share, got {argument}. "
                "Start a sweep without torchrun, or each of its runs with it."
            )


def together(command: Callable[[], None]) -> Callable[[], None]:
    """Has the first process run `command`, and the others take part in the run that it leads to."""

    @functools.wraps(command)
    def begin() -> None:
        here = place()
        if here.rank > 0:
            sys.exit(_follow())
        try:
            command()
        except SystemExit as end:
            if end.code or here.count == 1:  # torchrun ends the others
                raise
        if here.count > 1:
            from bilevel_cli.machine import processes  # here: torch takes seconds

            processes.dismiss()

    return begin


def _follow() -> int:
    # Until it has joined, a follower waits where Python hears no signal: it ends by the system's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bilevel_cli.runs import entry

    try:
        entry.follow()
    except (KeyboardInterrupt, Exception) as error:  # the first process says what there is to say
        return getattr(error, "code", 1)
    return 0

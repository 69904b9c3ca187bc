"""What torchrun tells the processes that it starts.

Imports no torch: a command that is asked for help answers at once.
"""

import functools
import signal
import sys
from collections.abc import Callable, Iterable

from bilevel_cli.errors import UsageError
from bilevel_cli.machine import collecting
from bilevel_cli.machine.place import here


def check_command_line(arguments: Iterable[str]) -> None:
    """Raises UsageError where several processes are to take the jobs of a sweep."""
    for argument in arguments if here().count > 1 else ():
        name, _, value = argument.partition("=")
        if name in ("-m", "--multirun") or (name == "hydra.mode" and value.upper() == "MULTIRUN"):
            raise UsageError(
                f"torchrun needs a command for one run, which its processes share, got {argument}. "
                "Start a sweep without torchrun, or each of its runs with it."
            )


def together(command: Callable[[], None]) -> Callable[[], None]:
    """Has the first process run `command`, and the others take part in the run that it begins."""

    @functools.wraps(command)
    def begin() -> None:
        own = here()
        if own.rank > 0:
            sys.exit(_follow())
        try:
            command()
        except SystemExit as end:
            if end.code or own.count == 1:  # torchrun ends the others
                raise
        if own.count > 1:
            from bilevel_cli.machine import joining  # here, as in `_follow`: torch takes seconds

            joining.dismiss()

    return begin


def _follow() -> int:
    """Takes part in the run of the first process. Returns the exit code."""
    # Until it has joined, a follower waits where Python hears no signal: the system ends it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with collecting.paused():
        from bilevel_cli.runs import entry

    try:
        entry.follow()
    except (KeyboardInterrupt, Exception) as error:  # the first process says what there is to say
        if getattr(error, "unsaid", False):  # but where it was killed
            print(f"bilevel-run: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return getattr(error, "code", 1)
    return 0

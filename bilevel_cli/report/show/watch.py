"""A report of runs that are still going, again and again."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bilevel_cli.errors import UsageError
from bilevel_cli.report.read import runs, tables
from bilevel_cli.report.read.runs import Run

# Between two jobs of a sweep none is going, for the moment that Hydra takes to compose the next.
QUIET = 2  # looks in a row that find none going, before all is over


def watch(folders: Sequence[Path], show: Callable[[list[Run]], str], every: float) -> None:
    """Prints what `show` makes of the runs, until none is going or the user presses Ctrl-C.

    A terminal is drawn over; elsewhere what has changed is printed below what was there.

    Args:
        folders: Where the runs are, or will be.
        show: The text for some runs.
        every: Seconds from one look to the next.
    """
    known: tables.Known = {}
    printed, quiet = "", 0
    while quiet < QUIET:
        if printed:
            time.sleep(every)
        found, text = _look(folders, show, known)
        if text != printed:
            _print(text)
            printed = text
        going = not found or any(run.status == runs.GOING for run in found)
        quiet = 0 if going else quiet + 1


def _look(
    folders: Sequence[Path], show: Callable[[list[Run]], str], known: tables.Known
) -> tuple[list[Run], str]:
    try:
        found = runs.read(folders, known)
    except runs.NoRuns:
        return [], "No run is there yet."
    try:
        return found, show(found)
    except UsageError as error:
        if any(run.status == runs.GOING for run in found):
            return found, f"Not yet: {error}"  # such as a score before the first evaluation
        raise


def _print(text: str) -> None:
    if not sys.stdout.isatty():
        print(f"{time.strftime('%H:%M:%S')}\n{text}\n", flush=True)
        return
    lines, height = text.splitlines(), shutil.get_terminal_size().lines
    if len(lines) >= height:
        lines = [*lines[: height - 2], f"... {len(lines) - height + 2} more lines"]
    # Over what is there, instead of clearing the screen first: it does not flicker.
    print("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)

"""Reports on runs that are still going, again and again until all have ended."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bilevel_cli.errors import UsageError
from bilevel_cli.machine import streams
from bilevel_cli.report.read import folders as search
from bilevel_cli.report.read import runs
from bilevel_cli.report.read.contents import Known
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import RUNNING

# How many looks in a row must find no run going before all is over. One is not enough: while Hydra
# composes the next job of a sweep, none is going.
QUIET = 2


def watch(folders: Sequence[Path], show: Callable[[list[Run]], str], every: float) -> None:
    """Prints what `show` makes of the runs, until none is going, nobody reads it, or Ctrl-C.

    A terminal is drawn over; elsewhere what has changed is printed below what was there.

    Args:
        folders: Where the runs are, or will be.
        show: Makes the text to print of some runs.
        every: Seconds between two looks.
    """
    known: Known = {}
    printed, quiet = "", 0
    while quiet < QUIET and not streams.left():
        if printed:
            time.sleep(every)
        found, text = _look(folders, show, known)
        if text != printed:
            _print(text)
            printed = text
        going = not found or any(run.status == RUNNING for run in found)
        quiet = 0 if going else quiet + 1


def _look(
    folders: Sequence[Path], show: Callable[[list[Run]], str], known: Known
) -> tuple[list[Run], str]:
    try:
        found = runs.read(folders, known)
    except search.NoRuns:
        return [], "No run is there yet."
    try:
        return found, show(found)
    except UsageError as error:
        if any(run.status == RUNNING for run in found):
            return found, f"Not yet: {error}"  # as of a score before the first evaluation
        raise


def _print(text: str) -> None:
    if not sys.stdout.isatty():
        print(f"{time.strftime('%H:%M:%S')}\n{text}\n", flush=True)
        return
    lines, height = text.splitlines(), shutil.get_terminal_size().lines
    if len(lines) >= height:
        lines = [*lines[: height - 2], f"... {len(lines) - height + 2} more lines"]
    # Written over the last text: a screen that is cleared first flickers.
    print("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)

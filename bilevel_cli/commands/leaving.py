"""The end of the process of a command: at once, without taking torch down piece by piece."""

import atexit
import functools
import logging
import os
import sys
from collections.abc import Callable


def at_once(command: Callable[[], None]) -> Callable[[], None]:
    """Has the process of a command end as soon as its work is done and its files are closed.

    Python would free each object of torch before it ends, which takes 0.4 seconds of CPU time; the
    system frees all of them together. What libraries have registered for the end still runs, and
    threads are still waited for. For the process of a command alone: a program that calls `main`
    itself ends as it likes. A command that ends by an error which nobody caught ends as ever.

    Args:
        command: Returns, or raises SystemExit.
    """

    @functools.wraps(command)
    def begin() -> None:
        ended: list[int] = []
        # Python runs last what was registered first: then others have nothing left to do.
        atexit.register(_leave, ended)
        try:
            command()
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                ended.append(end.code or 0)
            raise
        ended.append(0)

    return begin


def _leave(ended: list[int]) -> None:
    """Ends the process with the exit code in `ended`. Python ends it where there is none."""
    if not ended:
        return
    logging.shutdown()  # registered before this function, so that its turn would not come
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # Python has an exit code of its own for it
        return
    os._exit(ended[0])

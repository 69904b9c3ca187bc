"""A command in a process that finds everything imported: torch again takes seconds."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bilevel_cli.commands import run


def carry_out(
    folder: Path, overrides: Sequence[str], output: Path, whole: bool = False
) -> NoReturn:
    """In a process that was forked: runs bilevel-run, and ends with its exit code.

    Args:
        folder: Of the run.
        overrides: The other arguments.
        output: The file to which what it prints is added.
        whole: Whether the process ends as Python's do, which takes seconds.
    """
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["bilevel-run", *overrides, f"hydra.run.dir={folder}"]
    if whole:
        run.main()
        sys.exit()
    code = 1
    try:
        run.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        logging.shutdown()
        os._exit(code)


def finish(child: int) -> int:
    """The exit code of a process, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""An error of a user's code in one line: its type, its words, and where it was raised."""

import sysconfig
import traceback
from pathlib import Path

OURS = str(Path(__file__).parents[1])
STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
TOOLS = ("torch", "hydra", "omegaconf", "numpy")  # an error raised in these is of their caller
LENGTH = 500  # characters of a message that are shown


def explained(error: BaseException) -> str:
    """Type, message, file and line of an error; of a ValueError of this package only its message.

    Args:
        error: An error that was raised: its traceback tells whose code raised it.
    """
    words, source = " ".join(str(error).split()), _source(error)
    if isinstance(error, ValueError) and source == OURS:
        return words
    shown = words if len(words) <= LENGTH else f"{words[:LENGTH]} ..."
    at = f" ({source})" if source not in ("", OURS) else ""
    return f"{type(error).__name__}{f': {shown}' if shown else ' without a message'}{at}"


def place(error: BaseException) -> str:
    """File and line of the code that raised an error, as `_source`; empty where it was ours."""
    source = _source(error)
    return "" if source == OURS else source


def cause(error: BaseException) -> BaseException:
    """The first error of a chain in which each was raised from the one before."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def _source(error: BaseException) -> str:
    """Whose code raised an error, itself or in what it called.

    Returns:
        File and line of a user's code or of a package it installed, or OURS, or an empty text.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    installed = ""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            return installed or OURS
        at = f"{file}, line {line}, in {frame.f_code.co_name}"
        package = next((_package(file, root) for root in INSTALLED if file.startswith(root)), None)
        if package is None and not file.startswith((*STANDARD, "<")):
            return at
        if package and package not in TOOLS:
            installed = installed or at
    return installed


def _package(file: str, root: str) -> str:
    return Path(file).relative_to(root).parts[0]

"""An error of a user's code in one line: its type, its words, and where it was raised."""

import sysconfig
import traceback
from pathlib import Path

OURS = str(Path(__file__).parents[1])
STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
TOOLS = ("torch", "hydra", "omegaconf", "numpy")  # an error raised in these is of their caller
BEGIN, END = 180, 60  # characters of a long message that are shown


def explained(error: BaseException) -> str:
    """Type, message, file and line of an error; of a ValueError of this package only its message.

    Of an error that was raised from another one, that one too: it is what happened.

    Args:
        error: An error that was raised: its traceback tells whose code raised it.
    """
    source = _source(error)
    if isinstance(error, ValueError) and source == OURS:
        return " ".join(str(error).split())
    at = f" ({source})" if source not in ("", OURS) else ""
    first = cause(error)
    if isinstance(error, BaseExceptionGroup):
        first = error.exceptions[0]
    return f"{_told(error)}{at}{f', from {_told(first)}' if first is not error else ''}"


def _told(error: BaseException) -> str:
    """Type and message of an error. Of a long message begin and end: which one tells is unknown."""
    try:
        words = " ".join(str(error).split())
    except Exception:  # of a class that cannot say what it is
        words = ""
    if len(words) > BEGIN + END:
        words = f"{words[:BEGIN]} ... {words[-END:]}"
    return f"{type(error).__name__}{f': {words}' if words else ' without a message'}"


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

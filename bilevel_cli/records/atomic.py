"""A file is replaced whole, or stays as it was."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields the path of an empty file to write, which then takes the place of `path`.

    A reader, or a run that is killed, finds the old file or the new one, never a part of either. A
    writer that must survive a loss of power calls os.fsync on the file before it leaves. No link
    is followed: neither one of the name of `path` nor one of the name that the file has meanwhile.

    Raises:
        OSError: The file cannot be written. `path` is as it was.
    """
    partial = path.with_suffix(".partial")
    try:
        _begin(partial)
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _begin(partial: Path) -> None:
    """Makes the file, in place of what a killed writer or somebody else left."""
    try:
        descriptor = _new(partial)
    except FileExistsError:
        partial.unlink()
        descriptor = _new(partial)
    os.close(descriptor)


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

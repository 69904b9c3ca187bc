"""A file is replaced whole, or stays as it was."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields the path of a file to write, which then takes the place of `path`.

    A reader, or a run that is killed, finds the old file or the new one, never a part of either. A
    writer that must survive a loss of power calls os.fsync on the file before it leaves.

    Raises:
        OSError: The file cannot be written. `path` is as it was.
    """
    partial = path.with_suffix(".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise

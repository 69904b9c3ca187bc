"""Locks on files: the kernel lets go of them however the process that holds them ends.

So a run or a job that is noted as running, and whose lock no process holds, was killed.
"""

import contextlib
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from bilevel_cli.errors import UsageError
from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.vocabulary import LOCK

log = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, by a lock on its file `lock`, which stays.

    Raises:
        UsageError: Another run is in the folder.
        OSError: The file cannot be written.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | CAREFUL, 0o666)
    try:
        _take_or_refuse(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def take(descriptor: int, shared: bool = False) -> bool | None:
    """Takes the lock of an open file, and keeps it until the file is closed.

    Args:
        descriptor: Of the open file.
        shared: Whether other processes may take it too, if they share it: to read the file while
            nobody writes it.

    Returns:
        Whether it was free; None where that cannot be known: some network file systems have no
        locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def release(descriptor: int) -> None:
    """Lets go of the lock of an open file."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def held(path: Path) -> bool | None:
    """Whether a process holds the lock of a file for itself. The question takes microseconds.

    False where there is no file. None where it cannot be known: on file systems without
    locks, of links, and of files that this user may not open.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | CAREFUL)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        free = take(descriptor, shared=True)
    finally:
        os.close(descriptor)
    return None if free is None else not free


def wait(path: Path) -> None:
    """Waits until no process holds the lock of a file; not at all where that cannot be known."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | CAREFUL)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def _take_or_refuse(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 300).decode(errors="replace").strip() or "another process"
        raise UsageError(
            f"A run needs {directory} for itself, got one in which {holder} is running. "
            "Wait for it, or use another hydra.run.dir."
        ) from None
    except OSError as error:  # some network file systems have no locks
        log.warning("Nothing keeps other runs out of %s: %s.", directory, error.strerror)
        return
    with contextlib.suppress(OSError):  # the holder's name, which the message above shows
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())

"""One run at a time in a folder."""

import contextlib
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from bilevel_cli.errors import UsageError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, by a lock on its file `lock`.

    The file stays; the kernel lets go of the lock however the process ends.

    Raises:
        UsageError: Another run is in the folder.
        OSError: It cannot be written.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
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
    with contextlib.suppress(OSError):  # who it is: for the message above alone
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())

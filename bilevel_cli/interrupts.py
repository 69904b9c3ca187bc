"""Signals, obeyed between two steps."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stopped(KeyboardInterrupt):
    """A signal stopped the command at once.

    Attributes:
        signum: The signal.
        code: The exit code: 128 + the signal; 0 for SIGUSR2, by which a scheduler asks a run to
            make way, and starts it again.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.code = 0 if signum == signal.SIGUSR2 else 128 + signum


class Interrupted(Stopped):
    """A signal asked the run to stop; its checkpoint is written."""


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Has SIGINT, SIGTERM and SIGUSR2 raise `Stopped`."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled(stop):
        yield


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects the same signals, to be obeyed between two steps; a second one at once."""
    requests: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if requests:
            raise Stopped(signum)
        requests.append(signum)
        print("\nStopping after this step; once more to stop at once.", file=sys.stderr)

    with _handled(note):
        yield requests


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    try:
        before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    except ValueError:  # not in the main thread, which alone receives signals
        yield
        return
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)

"""Signals, obeyed between two steps."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its checkpoint is written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, to be obeyed between two steps; a second one at once."""
    requests: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(signum)
        print("\nStopping after this step; once more to stop at once.", file=sys.stderr)

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {signum: signal.signal(signum, note) for signum in signals}
    except ValueError:  # not in the main thread, which alone receives signals
        yield requests
        return
    try:
        yield requests
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

"""SIGINT, SIGTERM and SIGUSR2, obeyed between two outer steps."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

asked: list[int] = []
"""The signals that this process received since `serve` prepared it, and is to obey."""

_ignored: set[int] = set()


class Stopped(KeyboardInterrupt):
    """A signal stopped the command at once.

    Attributes:
        signum: The signal.
        code: The exit code: 128 + the signal; 0 for SIGUSR2, by which a scheduler asks a run to
            make way. The scheduler starts such a run again.
        step: The outer step after which the run continues; None where it begins anew.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.code = 0 if signum == signal.SIGUSR2 else 128 + signum
        self.step: int | None = None


class Interrupted(Stopped):
    """A signal asked the run to stop, and the run has written its checkpoint."""


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Makes each of the three signals raise `Stopped`, until the context ends."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled(stop):
        yield


@contextlib.contextmanager
def stop_requests(quiet: bool = False) -> Iterator[list[int]]:
    """Collects signals in a list, for the caller to obey between two steps.

    A second signal raises `Stopped` at once.

    Args:
        quiet: Whether to say nothing, since another process tells the user.
    """
    requests: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if requests:
            raise Stopped(signum)
        requests.append(signum)
        if not (quiet or _ignored):  # in a pool, the process that passed it on says so
            _say("Stopping after this step; once more to stop at once.")

    with _handled(note):
        yield requests


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Ignores the signals, so that the last words of a stopped command are not cut short."""
    with _handled(lambda signum, frame: None):
        yield


def ignore() -> None:
    """Ignores the signals for good, in a process that ends."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


@contextlib.contextmanager
def passed_on() -> Iterator[list[int]]:
    """Collects signals in a list, and passes the first on to the processes that run jobs.

    These stop after their step. A second signal raises `Stopped`, and so does the first where no
    process runs a job.
    """
    requests: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        if requests or not children:
            raise Stopped(signum)
        requests.append(signum)
        _say("Stopping the jobs after their step; once more to stop at once.")
        for child in children:
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)

    with _handled(note):
        yield requests


def serve() -> list[int] | None:
    """Prepares a process of a pool for the signals that `passed_on` sends it.

    A terminal sends Ctrl-C to this process too, which ignores it: the process that started it
    passes it on. A signal that comes between two jobs is kept for the next one. Unhandled, it would
    end the process, and the pool with it.

    Returns:
        The signals so far; None where something else handles SIGTERM, so that this is no pool.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _ignored.add(signal.SIGINT)
    elif handler is not _ask:
        return None
    return asked


def _say(line: str) -> None:
    # Nobody may read it any more; the run is to be saved all the same.
    with contextlib.suppress(OSError, ValueError):
        print(f"\n{line}", file=sys.stderr, flush=True)


def _ask(signum: int, frame: FrameType | None) -> None:
    asked.append(signum)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    try:
        obeyed = [signum for signum in SIGNALS if signum not in _ignored]
        before = {signum: signal.signal(signum, handler) for signum in obeyed}
    except ValueError:  # outside of the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)

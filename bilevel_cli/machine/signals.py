"""SIGINT, SIGTERM, SIGHUP and SIGUSR2, obeyed between two outer steps."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)

asked: list[int] = []
"""The signals that this process received since `serve` prepared it, and is to obey."""

_ignored: set[int] = set()
_hung_up = False  # whether SIGHUP came since the outermost context began that handles signals
_within = 0  # how many such contexts there are now, one in another


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
    """Makes each of the signals raise `Stopped`, until the context ends."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled(stop):
        yield


@contextlib.contextmanager
def stop_requests(quiet: bool = False) -> Iterator[list[int]]:
    """Collects signals in a list, for the caller to obey between two steps.

    A second signal raises `Stopped` at once. SIGHUP does not count: what ends a session sends it
    beside another, and nobody is impatient.

    Args:
        quiet: Whether to say nothing, since another process tells the user.
    """
    requests: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if _impatient(signum, requests):
            raise Stopped(signum)
        requests.append(signum)
        told = quiet or _ignored  # in a pool, by the process that passed it on
        if len(requests) == 1 and not told:
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

    These stop after their step. A second signal raises `Stopped`, as in `stop_requests`, and so
    does the first where no process runs a job.
    """
    requests: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        if _impatient(signum, requests) or not children:
            raise Stopped(signum)
        requests.append(signum)
        if len(requests) > 1:
            return
        _say("Stopping the jobs after their step; once more to stop at once.")
        for child in children:
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)

    with _handled(note):
        yield requests


def serve() -> list[int] | None:
    """Prepares a process of a pool for the signals that `passed_on` sends it.

    A terminal sends Ctrl-C to this process too, and SIGHUP when it is closed. It ignores both: the
    process that started it passes them on. A signal that comes between two jobs is kept for the
    next one. Unhandled, it would end the process, and the pool with it.

    Returns:
        The signals so far; None where something else handles SIGTERM, so that this is no pool.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ask)
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
            _ignored.add(signum)
    elif handler is not _ask:
        return None
    return asked


def _impatient(signum: int, earlier: list[int]) -> bool:
    """Whether a signal means, after earlier ones, that the user does not wait for the step."""
    return signum != signal.SIGHUP and any(one != signal.SIGHUP for one in earlier)


def _say(line: str) -> None:
    # Nobody may read it any more; the run is to be saved all the same.
    with contextlib.suppress(OSError, ValueError):
        print(f"\n{line}", file=sys.stderr, flush=True)


def _ask(signum: int, frame: FrameType | None) -> None:
    asked.append(signum)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    global _hung_up, _within

    def handle(signum: int, frame: FrameType | None) -> None:
        global _hung_up
        # A shell that ends sends SIGHUP to its jobs, and the kernel sends it once more: the second
        # one must not disturb what the first one began.
        if signum == signal.SIGHUP:
            if _hung_up:
                return
            _hung_up = True
        handler(signum, frame)

    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    spared = _ignored | ({signal.SIGHUP} if under_nohup else set())
    try:
        before = {s: signal.signal(s, handle) for s in SIGNALS if s not in spared}
    except ValueError:  # outside of the main thread, which alone may handle signals
        yield
        return
    _hung_up, _within = _hung_up and _within > 0, _within + 1
    try:
        yield
    finally:
        _within -= 1
        for signum, earlier in before.items():
            signal.signal(signum, earlier)

"""A job of a sweep, in the process that runs it."""

import contextlib
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig

from bilevel_cli.config.sources import digests
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.machine import signals, streams
from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.plain import plain
from bilevel_cli.sweeps.outcome import Outcome, digest, last_score, noting, shown
from bilevel_cli.sweeps.status_line import CLEAR
from bilevel_cli.vocabulary import COMPLETED, FAILED, INTERRUPTED, REFUSED, RUNNING, TRACEBACK

launching = False  # whether this process is the one that was asked for the sweep
begun: Callable[[Path], None] | None = None  # told of each job that this process begins
carried: set[Path] = set()  # the folders of the jobs that this process has run itself


def carry_out(run: Callable[[], float | None], config: DictConfig, folder: Path) -> float | None:
    """Runs a job and notes how it ended, unless it is completed or another process runs it.

    An error of the run is noted, not raised: the sweep goes on to the other jobs.

    Args:
        run: Runs the experiment.
        config: The composed configuration.
        folder: The folder of the job.

    Returns:
        What `run` returns, or returned when the job was completed; None if the job failed.
    """
    asked = None
    if not launching:
        streams.prepare()
        asked = signals.serve()
    if asked:
        return None
    pooled = asked is not None  # then the process that launched it tells of the job
    with noting(folder) as note:
        if note is None:
            return None
        settings = digest(config)
        before = note.read()
        if before and (before.status, before.settings) == (COMPLETED, settings):
            return before.returned
        note.sources = digests(config)
        note.write(Outcome(RUNNING, settings))
        carried.add(folder)
        if begun is not None:
            begun(folder)
        handlers = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
        try:
            with signals.stops_at_once(), _quiet(pooled, folder.name):
                returned = run()
        except KeyboardInterrupt as stop:
            reason = f"By {stop or 'SIGINT'}. The same command continues it."
            note.write(Outcome(INTERRUPTED, settings, reason, Failed.code))
            if launching:
                raise
            signum = getattr(stop, "signum", signal.SIGINT)
            if asked is not None:
                asked.append(signum)  # no job after this one
                return None
            note.write(Outcome(INTERRUPTED, settings, _handed_on(signum, handlers), Failed.code))
            sys.exit(getattr(stop, "code", 128 + signum))
        except Exception as error:
            outcome = _failure(error, settings, folder)
            if not pooled:
                print(f"bilevel-run: {folder.name}: {outcome.error}", file=sys.stderr)
        else:
            score = last_score(folder, config.objective)
            outcome = Outcome(COMPLETED, settings, score=score, returned=returned)
            if not launching and not pooled:
                print(f"{folder.name}: {COMPLETED}, {shown(score)}", flush=True)
        note.write(outcome)
        return outcome.returned


def _handed_on(signum: int, handlers: Mapping[signal.Signals, object]) -> str:
    """Hands a signal, once the run is saved, to its handler of before: submitit requeues the job.

    Returns:
        Why that did not end the process, where it did not.
    """
    handler = handlers.get(signal.Signals(signum))
    try:
        if callable(handler):
            signal.signal(signum, signal.SIG_IGN)  # a second one would enter the handler again
            handler(signum, None)
    except Exception as error:  # of submitit: too many timeouts
        return str(error)
    return f"By {signal.Signals(signum).name}. The same command continues it."


def _failure(error: Exception, settings: str, folder: Path) -> Outcome:
    if isinstance(error, UsageError):
        return Outcome(REFUSED, settings, str(error), error.code)
    if not isinstance(error, Failed):
        reason = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
        with contextlib.suppress(OSError), replaced(folder / TRACEBACK) as partial:
            partial.write_text("".join(traceback.format_exception(error)))
        return Outcome(FAILED, settings, reason, Failed.code)
    return Outcome(error.status, settings, str(error), error.code)


@contextlib.contextmanager
def _quiet(wanted: bool, name: str) -> Iterator[None]:
    """Keeps progress bars and news of several jobs at a time from the terminal, not from logs.

    A warning is told, with the name of its job, in place of the line that says how far they are.
    """
    if not wanted:
        yield
        return
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)
            start = CLEAR if handler.stream.isatty() else ""
            handler.setFormatter(
                logging.Formatter(f"{start}{plain(name)}: ".replace("%", "%%") + "%(message)s")
            )
    with contextlib.redirect_stderr(_NoTerminal(sys.stderr)):
        yield


class _NoTerminal:
    """A stream that says it is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.write, self.flush = stream.write, stream.flush

    def isatty(self) -> bool:
        return False

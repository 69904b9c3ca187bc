"""job.json: how a job of a sweep ended, whichever process ran it."""

import contextlib
import csv
import fcntl
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TextIO

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.machine import signals

FILE = "job.json"
COMPLETED = "completed"

launching = False  # whether this process is the one that was asked for the sweep


@dataclass(frozen=True)
class Outcome:
    """What is noted of a job.

    Args:
        status: "waiting" until it begins, and "running" then; "completed", "refused" for wrong
            settings, "interrupted", or, of the manifest of its run, "failed", "diverged" or "oom".
        settings: SHA-256 of its settings.
        error: One message, where there was an error.
        code: The exit code of a single run that ends so.
        score: The name and last value of the objective, or of the first score of eval.csv.
        returned: What a sweeper such as Optuna got.
    """

    status: str
    settings: str
    error: str | None = None
    code: int = 0
    score: tuple[str, float] | None = None
    returned: float | None = None


class Note:
    """A job.json that this process holds the lock of.

    Args:
        descriptor: Of the open file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> Outcome | None:
        return _parsed(os.pread(self._descriptor, 1 << 20, 0))

    def write(self, outcome: Outcome) -> None:
        """Notes an outcome; in place, where a full disk still has room."""
        text = (json.dumps(asdict(outcome)) + "\n").encode()
        with contextlib.suppress(OSError):  # a job without a note is one that runs again
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))


@contextlib.contextmanager
def noting(folder: Path) -> Iterator[Note | None]:
    """The note of the job in a folder, locked; None where another process runs the job.

    The kernel lets go of the lock however a process ends: so a job that is noted to run and holds
    no lock was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield Note(descriptor) if _locked(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) else None
    finally:
        os.close(descriptor)


def read(folder: Path) -> Outcome | None:
    """How the job in a folder ended: as noted, or "killed"; None if it never began."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        free = _locked(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        outcome = _parsed(os.pread(descriptor, 1 << 20, 0))
    finally:
        os.close(descriptor)
    if outcome and outcome.status == "running" and free:
        reason = "Its process was killed, perhaps for want of memory. The same command continues it"
        return replace(outcome, status="killed", error=f"{reason}.", code=Failed.code)
    return outcome


def wait(folder: Path) -> None:
    """Waits until no process runs the job in a folder."""
    with contextlib.suppress(OSError), (folder / FILE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def digest(config: DictConfig) -> str:
    """SHA-256 of the settings of a job."""
    kept = [str(key) for key in config if key not in ("hydra", "loggers", "resume")]
    with contextlib.suppress(OmegaConfBaseException):  # one that the job itself is refused for
        settings = OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=False)
        assert isinstance(settings, dict)
        settings = {key: _plain(config[key]) for key in settings}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return ""


def carry_out(run: Callable[[], float | None], config: DictConfig, folder: Path) -> float | None:
    """Runs a job and notes how it ended; unless it is completed, or another process runs it.

    An error does not leave it: the sweep goes on to the other jobs.

    Args:
        run: Runs the experiment.
        config: The composed configuration.
        folder: Of the job.

    Returns:
        What `run` does, or did when the job was completed; None where it failed.
    """
    asked = None if launching else signals.serve()
    if asked:
        return None
    with noting(folder) as note:
        if note is None:
            return None
        settings = digest(config)
        before = note.read()
        if before and (before.status, before.settings) == (COMPLETED, settings):
            return before.returned
        note.write(Outcome("running", settings))
        handlers = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
        try:
            with signals.stops_at_once(), _quiet(asked is not None):
                returned = run()
        except KeyboardInterrupt as stop:
            reason = f"By {stop or 'SIGINT'}. The same command continues it."
            note.write(Outcome("interrupted", settings, reason, Failed.code))
            if launching:
                raise
            signum = getattr(stop, "signum", signal.SIGINT)
            if asked is not None:
                asked.append(signum)  # no job after this one
                return None
            note.write(Outcome("interrupted", settings, _handed_on(signum, handlers), Failed.code))
            sys.exit(getattr(stop, "code", 128 + signum))
        except Exception as error:
            outcome = _failure(error, folder, settings)
            print(f"bilevel-run: {folder.name}: {outcome.error}", file=sys.stderr)
        else:
            score = last_score(folder, config.objective)
            outcome = Outcome(COMPLETED, settings, score=score, returned=returned)
            if not launching:
                print(f"{folder.name}: completed, {shown(score)}", flush=True)
        note.write(outcome)
        return outcome.returned


def last_score(folder: Path, objective: str | None) -> tuple[str, float] | None:
    """The last value of a column of eval.csv, the first score by default; of replicas, the mean."""
    paths = [folder / "eval.csv"]
    if not paths[0].exists():
        paths = sorted(folder.glob("seed=*/eval.csv"))
    tables = []
    for path in paths:
        with path.open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    ends = [rows[-1] for rows in tables if rows]
    names = [name for end in ends[:1] for name in end if name not in ("step", "seconds")]
    name = objective or next(iter(names), None)
    return (name, fmean(float(end[name]) for end in ends)) if name in names else None


def shown(score: tuple[str, float] | None) -> str:
    return f"{score[0]} {score[1]:.4g}" if score else "without a score"


def _handed_on(signum: int, handlers: Mapping[signal.Signals, object]) -> str:
    """Leaves a signal, once the run is saved, to whoever had it before: submitit requeues.

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


def _failure(error: Exception, folder: Path, settings: str) -> Outcome:
    if isinstance(error, UsageError):
        return Outcome("refused", settings, str(error), error.code)
    if not isinstance(error, Failed):
        reason = f"{type(error).__name__}: {error}"
        return Outcome("failed", settings, reason, Failed.code)
    statuses = set()
    for path in [folder / "manifest.json", *folder.glob("seed=*/manifest.json")]:
        with contextlib.suppress(OSError, ValueError):
            statuses.add(json.loads(path.read_text())["status"])
    status = next((known for known in ("oom", "diverged") if known in statuses), "failed")
    return Outcome(status, settings, str(error), error.code)


@contextlib.contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Keeps progress bars and news of several jobs at a time from the terminal, not from logs."""
    if not wanted:
        yield
        return
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)
    with contextlib.redirect_stderr(_NoTerminal(sys.stderr)):
        yield


class _NoTerminal:
    """A stream that says it is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.write, self.flush = stream.write, stream.flush

    def isatty(self) -> bool:
        return False


def _parsed(text: bytes) -> Outcome | None:
    try:
        entries = json.loads(text)
        score = entries.pop("score")
        return Outcome(**entries, score=(score[0], score[1]) if score else None)
    except (ValueError, TypeError, KeyError, AttributeError):  # empty, or not ours
        return None


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def _plain(value: object) -> object:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return value

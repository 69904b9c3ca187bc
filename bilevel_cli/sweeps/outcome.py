"""job.json: how a job of a sweep ended, whichever process ran it."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.config.sources import Digests
from bilevel_cli.errors import Failed
from bilevel_cli.records import lock, table
from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.records.settings import NOT_OF_A_JOB
from bilevel_cli.vocabulary import EVAL, JOB, KILLED, RUNNING

READING = 1e-3  # seconds that a process takes at most to read a note, which it locks meanwhile


@dataclass(frozen=True)
class Outcome:
    """What is noted of a job.

    Args:
        status: Waiting until the job begins, then running, and then how it ended: completed,
            refused, interrupted, failed, diverged or oom.
        settings: SHA-256 of its settings.
        error: One message, where there was an error.
        code: The exit code of a single run that ends so.
        score: The name and last value of the objective, or of the first score of eval.csv.
        returned: What a sweeper such as Optuna was told.
        sources: The files of its classes, as in `config.sources`; None where it never ran.
    """

    status: str
    settings: str
    error: str | None = None
    code: int = 0
    score: tuple[str, float] | None = None
    returned: float | None = None
    sources: Digests | None = None


class Note:
    """A job.json that this process holds the lock of.

    Args:
        descriptor: Of the open file.

    Attributes:
        sources: Of the outcomes that are noted.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.sources: Digests | None = None

    def read(self) -> Outcome | None:
        return _parsed(os.pread(self._descriptor, 1 << 20, 0))

    def write(self, outcome: Outcome) -> None:
        """Notes an outcome; in place, where a full disk still has room."""
        text = (json.dumps(asdict(replace(outcome, sources=self.sources))) + "\n").encode()
        with contextlib.suppress(OSError):  # a job without a note is one that runs again
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))


@contextlib.contextmanager
def noting(folder: Path) -> Iterator[Note | None]:
    """The note of the job in a folder, locked; None where another process runs the job."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / JOB, os.O_RDWR | os.O_CREAT | CAREFUL, 0o666)
    try:
        yield Note(descriptor) if _taken(descriptor) else None
    finally:
        os.close(descriptor)


def read(folder: Path) -> Outcome | None:
    """How the job in a folder stands: as noted, or killed; None if nothing is noted of it."""
    try:
        descriptor = os.open(folder / JOB, os.O_RDONLY | CAREFUL)
    except OSError:
        return None
    free = False
    try:
        outcome = _parsed(os.pread(descriptor, 1 << 20, 0))
        if outcome is None or outcome.status == RUNNING:  # or half of it is written
            # Shared until the note is read: no job begins in between, which would seem killed.
            free = lock.take(descriptor, shared=True) is not False
            outcome = _parsed(os.pread(descriptor, 1 << 20, 0))
    except OSError:  # no file: a folder or a FIFO
        return None
    finally:
        os.close(descriptor)
    if outcome and outcome.status == RUNNING and free:
        reason = "Its process was killed, perhaps for want of memory. The same command continues it"
        return replace(outcome, status=KILLED, error=f"{reason}.", code=Failed.code)
    return outcome


def digest(config: DictConfig) -> str:
    """SHA-256 of the settings of a job; empty where they are wrong, as the job itself will say."""
    with contextlib.suppress(OmegaConfBaseException):
        text = json.dumps(resolved(config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
    return ""


def resolved(config: DictConfig) -> dict[str, Any]:
    """The settings of a job: what tells it from others, with every interpolation filled in.

    Raises:
        OmegaConfBaseException: An interpolation leads nowhere, or a value is missing.
    """
    kept = (str(key) for key in config if key not in NOT_OF_A_JOB)
    return {key: _plain(config[key]) for key in kept}


def last_score(folder: Path, objective: str | None) -> tuple[str, float] | None:
    """A column's name and its last value in eval.csv, the mean of those of replicas.

    Args:
        folder: Of the job.
        objective: The column; None for the first score.

    Returns:
        None where no run of the job has such a column.
    """
    ends = [row for path in tables(folder, EVAL) if (row := table.last(path))]
    names = [name for end in ends[:1] for name in end if name not in ("step", "seconds")]
    name = objective or next(iter(names), None)
    return (name, fmean(end[name] for end in ends)) if name in names else None


def tables(folder: Path, name: str) -> list[Path]:
    """The tables of this name in the folder of a job: one, or those of its replicas."""
    alone = folder / name
    return [alone] if alone.exists() else sorted(folder.glob(f"seed=*/{name}"))


def shown(score: tuple[str, float] | None) -> str:
    return f"{score[0]} {score[1]:.4g}" if score else "without a score"


def _taken(descriptor: int) -> bool:
    """Takes the lock of a note, unless another process runs the job.

    One that only reads the note shares the lock with other readers, and for a moment.
    """
    while lock.take(descriptor) is False:
        if lock.take(descriptor, shared=True) is False:
            return False
        lock.release(descriptor)
        time.sleep(READING)
    return True


def _parsed(text: bytes) -> Outcome | None:
    try:
        entries = json.loads(text)
        score = entries.pop("score")
        found = Outcome(**entries, score=(str(score[0]), float(score[1])) if score else None)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None  # empty, or not ours
    words = (found.status, found.settings, found.error or "")
    known = all(isinstance(word, str) for word in words) and isinstance(found.code, int)
    known = known and isinstance(found.sources, dict | None)
    return found if known else None


def _plain(value: object) -> object:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return value

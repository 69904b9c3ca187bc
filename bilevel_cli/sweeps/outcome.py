"""job.json: how a job of a sweep ended, whichever process ran it."""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.errors import Failed

FILE = "job.json"


COMPLETED = "completed"


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

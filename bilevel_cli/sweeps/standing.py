"""How far a sweep is, as the files of its jobs tell: whichever process runs them, and where."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.sweeps.job import Job
from bilevel_cli.sweeps.outcome import Outcome, tables
from bilevel_cli.vocabulary import COMPLETED, MISSING, RUNNING, TRAIN, WAITING

SOON = 3.0  # seconds after which there is something to estimate from
_ENDS = 4096  # bytes at either end of a table, in which its header and its last row are


@dataclass(frozen=True)
class Standing:
    """How far a sweep is.

    Args:
        completed: Jobs that are completed.
        total: All of them.
        running: Those that run now.
        failed: Those that ended otherwise.
        left: Seconds until the last of them ends; None where nothing tells yet.
    """

    completed: int
    total: int
    running: int
    failed: int
    left: float | None

    def __str__(self) -> str:
        parts = [f"{self.completed} of {self.total}", f"{self.running} running"]
        parts += [f"{self.failed} failed"] * (self.failed > 0)
        parts += [] if self.left is None else [f"about {duration(self.left)} left"]
        return ", ".join(parts)


class Watched:
    """A job, as its folder tells from time to time.

    Args:
        job: The job.

    Attributes:
        found: How it stands.
        share: How much of it is done, from 0 to 1.
        first: That share when it was first looked at.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.found = job, job.outcome()
        self._steps, self._budget = (_number(job.config, key) for key in ("outer_steps", "budget"))
        self._seen: dict[Path, tuple[int, float]] = {}  # of each table: its bytes, and its share
        self.share = self.first = self._share()
        self._moved: tuple[float, float] | None = None  # when it was first seen to go on

    def look(self, now: float) -> bool:
        """Looks again. Returns whether the job has ended since."""
        before, over = self.found.status, self.ended
        if before == COMPLETED:
            return False
        self.found = self.job.outcome()  # one that was stopped may have been queued again
        self.share = self._share()
        if self.found.status != before:
            self._moved = None
        elif self._moved is None and self.share > self.first:
            self._moved = (now, self.share)
        return self.ended and not over

    @property
    def ended(self) -> bool:
        return self.found.status not in (WAITING, MISSING, RUNNING)

    def left(self, now: float) -> float | None:
        """Seconds until it ends at its own pace; None where that is not known."""
        if self.found.status != RUNNING or self._moved is None:
            return None
        since, share = self._moved
        if self.share <= share:
            return None
        return (1 - self.share) * (now - since) / (self.share - share)

    def _share(self) -> float:
        if self.found.status == COMPLETED:
            return 1.0
        paths = tables(self.job.folder, TRAIN)
        replicas = max(len(paths), int(_number(self.job.config, "replicas") or 1))
        return sum(map(self._of_table, paths)) / replicas

    def _of_table(self, path: Path) -> float:
        """How much of one run is done, by the last row of its train.csv."""
        try:
            size = path.stat().st_size
        except OSError:
            return 0.0
        known = self._seen.get(path, (0, 0.0))
        if size != known[0]:
            row = last_row(path, size)
            shares = [
                row.get(column, 0.0) / most
                for column, most in (("step", self._steps), ("inner_grads", self._budget))
                if most
            ]
            known = self._seen[path] = (size, min(1.0, max(shares, default=0.0)))
        return known[1]


class Pace:
    """How long what remains of a sweep takes, at the pace of what was done so far.

    The unit is a job. Jobs that run at once count together, so the pace is that of all workers; a
    job that runs alone at the end has a pace of its own. The pace is taken from the first sign of
    progress on: what comes before, such as the start of processes, does not come again.

    Args:
        total: Jobs of the sweep, as far as it is known.
        clock: Seconds.
    """

    def __init__(self, total: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._jobs: dict[Path, Watched] = {}
        self._spent, self._since = 0.0, clock()
        self._first: tuple[float, float] | None = None  # seconds and jobs at the first progress

    def begin(self, jobs: Sequence[Job]) -> None:
        """Watches some more jobs, which are launched now."""
        self._since = self._clock()
        for job in jobs:
            if job.folder not in self._jobs:
                self._jobs[job.folder] = Watched(job)

    def rest(self) -> None:
        """Counts no time from now on: no job is launched until the next ones are watched."""
        self._spent += self._clock() - self._since

    def look(self) -> tuple[Standing, list[tuple[Job, Outcome]]]:
        """How far the sweep is, and the jobs that have ended since the last look."""
        now = self._clock()
        ended = [(one.job, one.found) for one in self._jobs.values() if one.look(now)]
        every = self._jobs.values()
        statuses = [one.found.status for one in every]
        completed, running = statuses.count(COMPLETED), statuses.count(RUNNING)
        failed = sum(one.ended for one in every) - completed
        total = max(self._total, len(self._jobs))
        return Standing(completed, total, running, failed, self._left(now)), ended

    def _left(self, now: float) -> float | None:
        spent = self._spent + now - self._since
        goes_on = [one for one in self._jobs.values() if not one.ended]
        remaining = sum(1 - one.share for one in goes_on)
        remaining += max(0, self._total - len(self._jobs))
        pace = self._pace(spent)
        if not remaining or pace is None:
            return None
        alone = [left for one in goes_on if (left := one.left(now)) is not None]
        return max([remaining * pace, *alone])

    def _pace(self, spent: float) -> float | None:
        """Seconds for a job; None where nothing tells yet."""
        done = sum(max(0.0, one.share - one.first) for one in self._jobs.values())
        if self._first is None and done > 0:
            self._first = (spent, done)
        if self._first is None or spent < SOON:
            return None
        since, before = self._first
        if done > before:
            return (spent - since) / (done - before)
        over = any(one.found.status == COMPLETED and one.first < 1 for one in self._jobs.values())
        return spent / done if over else None


def last_row(path: Path, size: int) -> dict[str, float]:
    """The last whole row of a table, without reading the rows before it; empty where none is.

    Args:
        path: The table.
        size: Its bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | CAREFUL)
        try:
            head = os.pread(descriptor, _ENDS, 0)
            tail = os.pread(descriptor, _ENDS, max(0, size - _ENDS))
        finally:
            os.close(descriptor)
        columns = head.decode().partition("\n")[0].split(",")
        values = tail.decode().rpartition("\n")[0].rpartition("\n")[2].split(",")
        return dict(zip(columns, map(float, values), strict=True))
    except (OSError, ValueError):  # no such file, or a header without a row
        return {}


def duration(seconds: float) -> str:
    """A time in one or two units, as rough as the estimate is: 40 s, 12 min, 2 h 10 min."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    if hours >= 48:
        return f"{round(hours / 24)} days"
    return f"{hours} h" + f" {minutes} min" * (minutes > 0)


def _number(config: DictConfig, key: str) -> float | None:
    try:
        value = config.get(key)
        return None if value is None else float(value)
    except (OmegaConfBaseException, TypeError, ValueError):
        return None

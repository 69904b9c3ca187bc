"""Sweeps: which jobs there are, which of them remain, and how they ended."""

import contextlib
import hashlib
import logging
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bilevel_cli.errors import Failed, Unwritten
from bilevel_cli.machine import signals
from bilevel_cli.sweeps import worker
from bilevel_cli.sweeps.worker import COMPLETED, Outcome

log = logging.getLogger(__name__)

_LONGEST = 200  # file systems take 255 bytes


def slug(overrides: str) -> str:
    """A folder name for a job's overrides: one folder, whatever slashes their values have."""
    name = re.sub(r"[/\\\x00]+", "_", overrides).strip(". ")
    if name and name == overrides and len(name.encode()) <= _LONGEST:
        return name
    # Two jobs whose names become alike must not share a folder.
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:12]
    return name.encode()[: _LONGEST - 13].decode(errors="ignore") + "_" + digest


OmegaConf.register_new_resolver("slug", slug, replace=True)


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Args:
        overrides: Its settings on the command line.
        config: Composed of them.
        folder: Where it runs.
        name: Of the folder, in the sweep's.
    """

    overrides: list[str]
    config: DictConfig
    folder: Path
    name: str

    def remains(self) -> bool:
        """Whether it is to be launched; it then waits. Not one that is completed or running."""
        with worker.noting(self.folder) as note:
            if note is None:
                return False
            settings, before = worker.digest(self.config), note.read()
            if before and (before.status, before.settings) == (COMPLETED, settings):
                return False
            note.write(Outcome("waiting", settings))
            return True

    def outcome(self) -> Outcome:
        found = worker.read(self.folder)
        if found is None or found.status == "waiting":
            reason = "It did not begin. The same command runs it."
            return Outcome("missing", "", reason, Failed.code)
        return found

    def returned(self) -> JobReturn:
        """What Hydra's sweepers are told."""
        found = JobReturn(overrides=self.overrides, cfg=self.config, status=JobStatus.COMPLETED)
        found.return_value = self.outcome().returned
        return found


class Remaining(Launcher):
    """Launches what remains of a sweep, and returns when none of its jobs runs any more.

    Args:
        launcher: Of Hydra or a plugin of it.
        context: Composes configurations.
        config: Of the sweep.
        known: To which it adds the jobs.
    """

    def __init__(
        self, launcher: Launcher, context: HydraContext, config: DictConfig, known: list[Job]
    ) -> None:
        self.launcher, self.context, self.config, self.known = launcher, context, config, known

    def setup(self, **given: Any) -> None:
        self.launcher.setup(**given)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        batch = [
            self._job(list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        ]
        self.known += batch
        remaining = [job for job in batch if job.remains()]
        if len(remaining) < len(batch):
            done = len(batch) - len(remaining)
            log.info("%d of %d jobs are completed, or still running.", done, len(batch))
        with signals.passed_on() as requests:
            self._launch(remaining, initial_job_idx, requests)
            for job in batch:
                worker.wait(job.folder)
        if requests:
            raise signals.Interrupted(requests[0])
        return [job.returned() for job in batch]

    def _launch(self, remaining: list[Job], first: int, requests: list[int]) -> None:
        """Launches jobs, and again those that did not begin since the death of one stopped all."""
        while remaining and not requests:
            earlier = _submitted(self.launcher)
            try:
                self.launcher.launch([job.overrides for job in remaining], first)
                return
            except Exception as error:
                waited = _wait_for_submitted(self.launcher, earlier)
                left = [job for job in remaining if job.outcome().status == "missing"]
                if len(left) == len(remaining):  # the launcher cannot launch
                    raise
                log.warning("%s", str(error).strip().partition("\n")[0])
                if waited:
                    return
                remaining = left

    def _job(self, overrides: list[str], number: int) -> Job:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            root, name = str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)
            worker.digest(config)
        finally:
            HydraConfig.instance().cfg = before
        raw = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        assert isinstance(raw, dict)
        if re.search(r"hydra[.:]job\.(num|id)", str(raw["subdir"])):
            # Launchers number what they launch: among fewer jobs, a job has another number.
            overrides = [*overrides, f"hydra.sweep.subdir='{name}'"]
        return Job(overrides, config, Path(root) / name, name)


@contextlib.contextmanager
def remaining() -> Iterator[list[Job]]:
    """Has Hydra launch by `Remaining`. Yields the jobs, as they become known."""
    known: list[Job] = []
    theirs = Plugins.instantiate_launcher

    def instantiate_launcher(
        self: Plugins,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> Launcher:
        launcher = theirs(self, hydra_context, task_function, config)
        return Remaining(launcher, hydra_context, config, known)

    # Hydra lets no one between sweeper and launcher, whichever the user chooses of both.
    Plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
    worker.launching = True
    try:
        yield known
    finally:
        Plugins.instantiate_launcher = theirs  # type: ignore[method-assign]
        worker.launching = False


def table(known: list[Job]) -> str:
    """The jobs with status, score and reason of failure, a line each, and their count."""
    outcomes = [job.outcome() for job in known]
    names = _names(known)
    scores = [f"{found.score[1]:.4g}" if found.score else "-" for found in outcomes]
    measures = sorted({found.score[0] for found in outcomes if found.score})
    score = measures[0] if len(measures) == 1 else "score"
    rows = [
        ("job", "status", score, ""),
        *(
            (name, found.status, value, " ".join((found.error or "").split()))
            for name, found, value in zip(names, outcomes, scores, strict=True)
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    width = max(shutil.get_terminal_size().columns, sum(widths) + 26)
    lines = []
    for name, status, value, reason in rows:
        line = f"{name:<{widths[0]}}  {status:<{widths[1]}}  {value:>{widths[2]}}"
        room = width - len(line) - 2
        lines.append(f"{line}  {textwrap.shorten(reason, room, placeholder=' ...')}".rstrip())
    counts = Counter(found.status for found in outcomes)
    total = ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*lines, f"{len(known)} jobs: {total}"])


def failures(known: list[Job]) -> tuple[int, str] | None:
    """The exit code and a message for the jobs that did not complete; None if all did."""
    failed = {job.name: found for job in known if (found := job.outcome()).status != COMPLETED}
    if not failed:
        return None
    lines = [f"  {name}: {found.error or found.status}" for name, found in failed.items()]
    full = any(found.code == Unwritten.code for found in failed.values())
    message = "\n".join([f"{len(failed)} of the jobs failed:", *lines])
    return Unwritten.code if full else Failed.code, message


def _names(known: list[Job]) -> list[str]:
    """What tells jobs apart: the overrides that not all of them have."""
    shared = set.intersection(*(set(job.overrides) for job in known))
    told = [
        " ".join(o for o in job.overrides if o not in shared and not o.startswith("hydra."))
        for job in known
    ]
    return [name or job.name for name, job in zip(told, known, strict=True)]


def _submitted(launcher: Launcher) -> set[str]:
    """The numbers of the jobs that a launcher of submitit has given to its queue."""
    folder = getattr(launcher, "params", {}).get("submitit_folder")
    if folder is None:
        return set()
    return {path.parent.name for path in Path(folder).parent.glob("*/*_submitted.pkl")}


def _wait_for_submitted(launcher: Launcher, earlier: set[str]) -> bool:
    """Waits for the jobs in the queue, of whose launcher the death of one was the end.

    Returns:
        Whether there were any.
    """
    numbers = _submitted(launcher) - earlier
    if not numbers:
        return False
    from submitit import AutoExecutor

    made: Any = launcher
    folder = made.params["submitit_folder"]
    executor: Any = AutoExecutor(folder=folder, cluster=made._EXECUTOR)._executor
    for number in sorted(numbers):
        executor.job_class(folder=folder, job_id=number, tasks=[0]).wait()
    return True

"""Sweeps: which jobs there are, which of them remain, and how they ended."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bilevel_cli.config.application import composed
from bilevel_cli.config.run_folder import check_names, check_sweep
from bilevel_cli.machine import signals
from bilevel_cli.records import folder, lock
from bilevel_cli.records.plain import plain
from bilevel_cli.sweeps import job_folders, kinds, outcome, status_line, summary, worker
from bilevel_cli.sweeps.composer import Composer, composer
from bilevel_cli.sweeps.job import Job, slug
from bilevel_cli.sweeps.outcome import Outcome, shown
from bilevel_cli.sweeps.standing import Pace
from bilevel_cli.sweeps.submitit import submitted, wait_for_submitted
from bilevel_cli.sweeps.suitable import Suitability, Trying, refuse
from bilevel_cli.vocabulary import COMPLETED, INTERRUPTED, JOB, MISSING, REFUSED

log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("slug", slug, replace=True)


class Remaining(Launcher):
    """Launches what remains of a sweep, and returns when none of its jobs runs any more.

    Args:
        launcher: The launcher that the user chose, of Hydra or a plugin of it.
        loader: Composes configurations.
        config: The configuration of the sweep.
        known: The list to which this launcher adds the jobs.
        trying: As of `Suitability`.
    """

    def __init__(
        self,
        launcher: Launcher,
        loader: Composer,
        config: DictConfig,
        known: list[Job],
        trying: Trying,
    ) -> None:
        self.launcher, self.loader, self.config, self.known = launcher, loader, config, known
        self._names = job_folders.Names(config)
        self._total = kinds.total(config)
        self._pace = Pace(self._total)
        self._suitability = Suitability(kinds.place(launcher, config), trying)

    def setup(self, **given: Any) -> None:
        self.launcher.setup(**given)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        batch = [
            self._job(list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        ]
        apart = job_folders.check_apart(batch, self.known, kinds.lists(self.config))
        self.known += batch
        _tell_of_changes(apart)
        remaining = [job for job in apart if job.reserve()]
        if initial_job_idx == 0:
            self._announce(apart, remaining)
        with self._shown(apart, remaining), signals.passed_on() as requests:
            self._launch(self._refuse(remaining), initial_job_idx, requests)
            for job in apart:
                lock.wait(job.folder / JOB)
        self.loader.forget()
        if requests:
            raise signals.Interrupted(requests[0])
        return [job.returned() for job in batch]

    def recall(self, overrides: list[str], number: int) -> None:
        """Adds a job of an earlier command to those that are known, if its folder tells of it."""
        job = self._job(overrides, number)
        if outcome.read(job.folder):
            self.known.append(job)
            self._pace.begin([job])  # which counts it as one of the search

    def _launch(self, remaining: list[Job], first: int, requests: list[int]) -> None:
        """Launches jobs. Where the death of one stopped all, launches those that did not begin."""
        while remaining and not requests:
            earlier = submitted(self.launcher)
            try:
                with kinds.folded(self.launcher, self.config):
                    self.launcher.launch([job.overrides for job in remaining], first)
                return
            except Exception as error:
                waited = wait_for_submitted(self.launcher, earlier)
                left = [job for job in remaining if job.outcome().status == MISSING]
                if len(left) == len(remaining):  # the launcher cannot launch
                    raise
                log.warning("%s", str(error).strip().partition("\n")[0])
                if waited:
                    return
                remaining = left

    def _announce(self, jobs: list[Job], remaining: list[Job]) -> None:
        if (done := len(jobs) - len(remaining)) > 0:
            _say(f"{done} of {len(jobs)} jobs are completed, or still running.")

    def _refuse(self, jobs: list[Job]) -> list[Job]:
        """Refuses the jobs that cannot work, and tells why. Returns the others."""
        refused: set[Path] = set()
        for some, reason in self._suitability.refused(jobs, _say):
            for job in some:
                refuse(job, reason)
            refused |= {job.folder for job in some}
            which = f"{summary.together(some, self.known)}{summary.many(some)}"
            _say(f"bilevel-run: {which}: {plain(reason)}", sys.stderr)
        return [job for job in jobs if job.folder not in refused]

    @contextlib.contextmanager
    def _shown(self, jobs: list[Job], remaining: list[Job]) -> Iterator[None]:
        """Shows how far the sweep is, unless all of it is done."""
        if not remaining and all(job.outcome().status == COMPLETED for job in jobs):
            yield
            return
        self._pace.begin(jobs)
        worker.begun = self._begun
        try:
            with status_line.shown(self._look):
                yield
        finally:
            worker.begun = None
            self._pace.rest()

    def _look(self) -> str:
        """How far the sweep is. Tells of jobs of other processes that have ended."""
        standing, ended = self._pace.look()
        for job, found in ended:
            if _absolute(job) not in worker.carried:
                _tell(summary.together([job], self.known), job, found)
        return str(standing)

    def _begun(self, directory: Path) -> None:
        """Tells that a job begins in this process."""
        number = next(n for n, job in enumerate(self.known) if _absolute(job) == directory)
        total = max(self._total, len(self.known))
        name = summary.together([self.known[number]], self.known)
        _say(f"Job {number + 1} of {total}: {name}")

    def _job(self, overrides: list[str], number: int) -> Job:
        config = self.loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        with composed(config):
            check_names(config, "hydra.run.dir")
            root, usual = str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)
            name = self._names.earlier(Path(root), usual, config)
            settings = outcome.digest(config)
        folder.check_job(Path(root, name), Path(root))
        folder.check(Path(root, name), f"{config.hydra.job.name}.log", key="hydra.sweep.dir")
        raw = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        assert isinstance(raw, dict)
        numbered = re.search(r"hydra[.:]job\.(num|id)", str(raw["subdir"]))
        if numbered or name != usual:
            # Launchers number what they launch: among fewer jobs, a job has another number.
            subdir = QuotedString(name, Quote.single).with_quotes()
            overrides = [*overrides, f"hydra.sweep.subdir={subdir}"]
        return Job(overrides, config, Path(root) / name, name, settings)


def _tell_of_changes(jobs: list[Job]) -> None:
    """Warns of jobs that have run with code which is not as it was."""
    older: dict[str, list[str]] = {}
    for job in jobs:
        before = outcome.read(job.folder)
        for module in job.changed(before.sources) if before and before.sources else ():
            older.setdefault(module, []).append(job.name)
    for module, names in older.items():
        log.warning(
            "%s has changed since %d of the jobs ran, such as %s. What they have computed stays, "
            "beside that of the code as it is now. Remove their folders, and the same command "
            "runs them anew.",
            module,
            len(names),
            plain(names[0]),
        )


@contextlib.contextmanager
def remaining(trying: Trying) -> Iterator[list[Job]]:
    """Has Hydra launch by `Remaining`. Yields the jobs, as they become known.

    Args:
        trying: As of `Suitability`.
    """
    known: list[Job] = []
    theirs = Plugins.instantiate_launcher

    def instantiate_launcher(
        self: Plugins,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> Launcher:
        check_sweep(config)
        # The sweeper has the same context, and so composes by this one too.
        hydra_context.config_loader = loader = composer(hydra_context.config_loader)
        launcher = theirs(self, hydra_context, task_function, config)
        return Remaining(launcher, loader, config, known, trying)

    # Hydra lets no one between sweeper and launcher, whichever the user chooses of both.
    Plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
    worker.launching = True
    try:
        yield known
    finally:
        Plugins.instantiate_launcher = theirs  # type: ignore[method-assign]
        worker.launching = False


def _absolute(job: Job) -> Path:
    """The folder of a job, as a job itself knows it."""
    return Path(os.path.abspath(job.folder))


def _tell(name: str, job: Job, found: Outcome) -> None:
    if found.status == COMPLETED:
        _say(f"{name}: {COMPLETED}, {shown(found.score)}")
    elif found.status not in (INTERRUPTED, REFUSED):  # told before, or by whoever stopped it
        _say(f"bilevel-run: {name}: {summary.reason(job, found)}", sys.stderr)


def _say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream, flush=True)

"""The door of this room: runs what a configuration describes, and reports how it ended."""

import contextlib
import logging
from pathlib import Path
from statistics import fmean

import torch
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.arguments import whole
from bilevel_cli.config.refused import check_composed
from bilevel_cli.config.resolved import check_resolves, plain, resolved
from bilevel_cli.config.unread import check_read
from bilevel_cli.errors import Failed, Unwritten, UsageError
from bilevel_cli.machine import place, signals
from bilevel_cli.machine.joining import following, leading
from bilevel_cli.machine.signals import Stopped
from bilevel_cli.records.paths import short
from bilevel_cli.runs import build, plan
from bilevel_cli.runs.lifetime import Run, own_folder
from bilevel_cli.runs.progress import Bar
from bilevel_cli.runs.replicas import Replicas
from bilevel_cli.vocabulary import DIVERGED, FAILED, NOTES, OOM

log = logging.getLogger(__name__)


def run(
    config: DictConfig, directory: Path, options: dict[str, str], bar: Bar | None = None
) -> float | None:
    """Runs the experiment that `config` describes, in `directory`.

    Args:
        config: The composed configuration.
        directory: The folder of the run. Each of several replicas has a folder `seed=K` in it, like
            that of a single run with this seed. A run whose folder holds a checkpoint of the same
            configuration is continued.
        options: The option chosen in each config group, for messages and the manifest.
        bar: As in `Progress`.

    Returns:
        The last value of the column of eval.csv that config.objective names, as a mean over
        replicas; None if it names no column.

    Raises:
        UsageError: A setting is wrong, or another run is in the folder; nothing was run.
        Failed: A run diverged or raised an error, as its manifest says too. The other replicas were
            carried to their end.
        Unwritten: Likewise; a run could not write its files.
        Interrupted: A signal stopped the runs; those that are not complete can be continued.
    """
    check_resolves(config, options)
    check_composed(config)
    check_read(config)
    folders = replicas(config, directory)
    with contextlib.ExitStack() as locks:
        for _, folder in folders:
            locks.enter_context(own_folder(folder))
        ranks = locks.enter_context(leading(lambda: [plain(config), str(directory), options]))
        runs = [Run(one, folder, len(folders), ranks, options) for one, folder in folders]
        if len(folders) > 1 and (directory / NOTES).is_dir():
            for one in runs:  # Hydra notes the configuration of a single run
                one.note_config()
        return _run(runs, config.objective, bar)


def follow() -> None:
    """Takes part in the run that the first process has begun. Writes no file and prints nothing.

    Raises:
        Exception: The run failed, here or in another process.
        Interrupted: As in `run`.
    """
    with following() as (ranks, given), signals.stops_at_once():
        if given is None:
            return
        logging.getLogger().addHandler(logging.NullHandler())
        values, directory, options = given
        config = OmegaConf.create(values)
        runner = build.build(config, resolved(config), Path(directory), options, ranks)
        (outcome,) = Replicas([runner]).run()
        if isinstance(outcome, BaseException):
            raise outcome
        runner.result()


def _run(runs: list[Run], objective: str | None, bar: Bar | None) -> float | None:
    """Runs the replicas. Returns the objective, if one is asked for; raises as `run` does."""
    _carry_out(runs, bar)
    failures = {one: failure for one in runs if (failure := one.end())}
    for kind in (KeyboardInterrupt, UsageError):
        for one in runs:
            if isinstance(one.outcome, kind):
                if isinstance(one.outcome, Stopped):
                    one.outcome.step = _saved(runs)
                raise one.outcome
    completed = [one for one in runs if one not in failures]
    _report(completed)
    if failures:
        error = next(iter(failures)).outcome
        assert isinstance(error, Exception)
        raise _failed(failures, len(runs)) from error
    if objective is None:
        return None
    return fmean(float(one.scores[str(objective)]) for one in completed)


def replicas(config: DictConfig, directory: Path) -> list[tuple[DictConfig, Path]]:
    """The configuration and the folder of each replica, as `run` runs them.

    Raises:
        UsageError: There are none or too many, or several processes are to share them.
    """
    count = plan.replicas(config)
    if count == 1:
        return [(config, directory)]
    if place.here().count > 1:
        raise UsageError(
            f"Several processes share a single run, got replicas={count}. Use replicas=1, or one "
            "process."
        )
    first, found = whole(config, "seed"), []
    for seed in range(first, first + count):
        one = OmegaConf.merge(config, {"seed": seed, "replicas": 1})
        assert isinstance(one, DictConfig)
        found.append((one, directory / f"seed={seed}"))
    return found


def _carry_out(runs: list[Run], bar: Bar | None) -> None:
    """Builds the runs and takes their outer steps; takes none if one of the runs is refused."""
    try:
        for one in runs:
            one.build()
            if isinstance(one.outcome, UsageError):
                return
        for one in runs:
            one.begin()
        ready = [one for one in runs if one.outcome is None]
        runners = [one.runner for one in ready if one.runner]
        for statement in dict.fromkeys(runner.experiment.task.statement for runner in runners):
            if statement:
                log.info(statement)
        for one, outcome in zip(ready, Replicas(runners).run(bar), strict=True):
            one.conclude(outcome)
    except KeyboardInterrupt as error:
        for one in runs:
            one.outcome = error if one.outcome is None else one.outcome


def _report(runs: list[Run]) -> None:
    """Logs the last scores of the runs, several as mean +- standard deviation, and their files."""
    if not runs:
        return
    columns = {name: torch.tensor([one.scores[name] for one in runs]) for name in runs[0].scores}
    shown = ", ".join(
        f"{name} {values.mean():.4g}" + (f" +- {values.std():.2g}" if len(runs) > 1 else "")
        for name, values in columns.items()
    )
    steps = max(one.runner.step for one in runs if one.runner)
    several = f" of {len(runs)} replicas" if len(runs) > 1 else ""
    log.info("After %d outer steps%s: %s", steps, several, shown)
    for one in runs:
        if one.files:
            log.info("Wrote %s to %s", ", ".join(one.names), short(one.directory))


def _saved(runs: list[Run]) -> int | None:
    """The outer step that all of the runs have saved; None where one of them has saved none."""
    steps = [one.runner.saved if one.runner else None for one in runs]
    known = [step for step in steps if step is not None]
    return min(known) if len(known) == len(steps) else None


def _failed(failures: dict[Run, Failed], count: int) -> Failed:
    """One error for the failures among `count` runs, which names those of one reason together."""
    if count == 1:
        return next(iter(failures.values()))
    seeds: dict[str, list[str]] = {}
    for one, failure in failures.items():
        seeds.setdefault(str(failure), []).append(one.directory.name)
    reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in seeds.items())
    kind = Unwritten if any(isinstance(one, Unwritten) for one in failures.values()) else Failed
    statuses = {failure.status for failure in failures.values()}
    # Of several, the status that says most about what to change.
    status = next((known for known in (OOM, DIVERGED) if known in statuses), FAILED)
    return kind(f"{len(failures)} of {count} replicas failed. {reasons}", status)

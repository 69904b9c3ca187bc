"""From a configuration to a run: builds the objects, runs them, and says how it ended."""

import logging
import traceback
import types
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli import checkpoint
from bilevel_cli.arguments import check_arguments, fits
from bilevel_cli.data.base import Source
from bilevel_cli.device import Device, generator
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.loop import InnerLoop
from bilevel_cli.manifest import Manifest
from bilevel_cli.methods.base import Hypergradient
from bilevel_cli.options import options_of_kind
from bilevel_cli.replicas import Replicas
from bilevel_cli.runner import CHECKPOINT, Diverged, Row, Runner, Schedule
from bilevel_cli.tasks.base import Task

log = logging.getLogger(__name__)

# Where a run goes, what a sweeper reads of it, which runs are beside it: they change no number.
_NOT_SETTINGS = ("hydra", "objective", "replicas")


def run(config: DictConfig, directory: Path, options: dict[str, str]) -> float | None:
    """Runs the experiment that `config` describes, in `directory`.

    Args:
        config: The composed configuration.
        directory: Of the run. Of several replicas, each has a folder `seed=K` in it, which is that
            of a single run with this seed. A run whose folder holds a checkpoint of the same
            configuration is continued.
        options: The option chosen in each config group, for messages.

    Returns:
        The last value of the eval column that config.objective names, if it names one; of several
        replicas, the mean.

    Raises:
        UsageError: A setting is wrong; nothing was run.
        Failed: A run diverged or raised; its manifest says so too. Its replicas went on.
        Interrupted: By a signal; what was not complete can be continued.
    """
    runs = [_Run(one, folder) for one, folder in _replicas(config, directory)]
    _carry_out(runs, options)
    failures = {one: reason for one in runs if (reason := one.end())}
    for kind in (KeyboardInterrupt, UsageError):
        for one in runs:
            if isinstance(one.outcome, kind):
                raise one.outcome
    completed = [one for one in runs if one not in failures]
    _report(completed)
    if failures:
        error = next(iter(failures)).outcome
        assert isinstance(error, Exception)
        raise Failed(_summary(failures, len(runs))) from error
    if config.objective is None:
        return None
    return fmean(_objective(config.objective, one.scores) for one in completed)


class _Run:
    """One run: its folder, its manifest, and how it ended.

    Args:
        config: The composed configuration.
        directory: Of the run.

    Attributes:
        runner: None until it is built.
        outcome: The last scores, or what the run raised; None until it ends.
    """

    def __init__(self, config: DictConfig, directory: Path) -> None:
        self.config, self.directory = config, directory
        self.settings = resolved(config)
        directory.mkdir(parents=True, exist_ok=True)
        self.manifest = Manifest(directory, self.settings)
        self.runner: Runner | None = None
        self.begun = False
        self.outcome: Row | BaseException | None = None
        self.files: list[Path] = []

    def build(self, options: dict[str, str]) -> None:
        try:
            self.runner = build(self.config, self.settings, self.directory, options)
        except Exception as error:
            self.outcome = error

    def begin(self) -> Runner:
        """Notes the beginning, and returns what is to be run."""
        runner = self.runner
        assert runner is not None
        self.manifest.begin(runner.device, data=runner.task.statement, first_step=runner.step)
        if runner.step:
            log.info("Continuing after step %d in %s", runner.step, self.directory)
        self.begun = True
        return runner

    def conclude(self, outcome: Row | BaseException) -> None:
        """Writes what was learned, where the outer steps led to scores."""
        if isinstance(outcome, dict):
            assert self.runner is not None
            try:
                written = self.runner.result()
            except Exception as error:
                outcome = error
            else:
                self.files = [self.runner.train.path, self.runner.evals.path, *written]
        self.outcome = outcome

    def end(self) -> str | None:
        """Notes the end. Returns the reason of a failure."""
        match self.outcome:
            case None:  # refused with another one
                return None
            case dict():
                self.manifest.end("completed")
                return None
            case UsageError() as error:
                # Refused, perhaps since the directory holds another run: its manifest is not ours.
                if self.begun or not checkpoint.exists(self.directory / CHECKPOINT):
                    self.manifest.end("failed", str(error))
                return None
            case KeyboardInterrupt() as error:
                self.manifest.end("interrupted", str(error) or "stopped at once")
                return None
            case Diverged() as error:
                self.manifest.end("diverged", str(error))
                return f"Diverged. {error}"
            case error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self.manifest.end("failed", reason)
                lines = traceback.format_exception(error)
                (self.directory / "traceback.txt").write_text("".join(lines))
                return f"{reason[:300]} The traceback is in {self.directory}."

    @property
    def scores(self) -> Row:
        assert isinstance(self.outcome, dict)
        return self.outcome


def _replicas(config: DictConfig, directory: Path) -> list[tuple[DictConfig, Path]]:
    """The configuration and the folder of each run."""
    count = _whole(config, "replicas")
    if count < 1:
        raise UsageError(f"A run needs replicas >= 1, got replicas={count}. Set replicas.")
    if count == 1:
        return [(config, directory)]
    first, found = _whole(config, "seed"), []
    for seed in range(first, first + count):
        one = OmegaConf.merge(config, {"seed": seed, "replicas": 1})
        assert isinstance(one, DictConfig)
        found.append((one, directory / f"seed={seed}"))
    if (directory / ".hydra").is_dir():  # Hydra notes the configuration of a single run
        for one, folder in found:
            (folder / ".hydra").mkdir(parents=True, exist_ok=True)
            OmegaConf.save(one, folder / ".hydra" / "config.yaml")
    return found


def _carry_out(runs: list[_Run], options: dict[str, str]) -> None:
    """Builds the runs, and takes their outer steps; none where one of them is refused."""
    try:
        for one in runs:
            one.build(options)
            if isinstance(one.outcome, UsageError):
                return
        ready = [one for one in runs if one.outcome is None]
        runners = [one.begin() for one in ready]
        for statement in dict.fromkeys(runner.task.statement for runner in runners):
            if statement:
                log.info(statement)
        for one, outcome in zip(ready, Replicas(runners).run(), strict=True):
            one.conclude(outcome)
    except KeyboardInterrupt as error:
        for one in runs:
            one.outcome = error if one.outcome is None else one.outcome


def _report(runs: list[_Run]) -> None:
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
        for path in one.files:
            log.info("Wrote %s", path)


def _summary(failures: dict[_Run, str], count: int) -> str:
    """One message for the failures among `count` runs, those of one reason together."""
    if count == 1:
        return next(iter(failures.values()))
    seeds: dict[str, list[str]] = {}
    for one, reason in failures.items():
        seeds.setdefault(reason, []).append(one.directory.name)
    reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in seeds.items())
    return f"{len(failures)} of {count} replicas failed. {reasons}"


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration with every interpolation filled in, as plain values.

    Raises:
        UsageError: An interpolation leads nowhere, or a mandatory value is missing.
    """
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items() if key not in _NOT_SETTINGS}


class Parts(NamedTuple):
    """What an experiment is a product of."""

    device: Device
    where: torch.device
    task: Task
    loop: InnerLoop
    method: Hypergradient[Any]


def build(
    config: DictConfig,
    settings: dict[str, Any],
    directory: Path,
    options: dict[str, str],
) -> Runner:
    """Builds all objects of a run, and checks that they fit together.

    Raises:
        UsageError: They do not.
    """
    try:
        device, where, task, loop, method = parts(config, options)
        metrics = {name: make(config, f"metrics.{name}") for name in config.get("metrics") or {}}
        steps = Schedule.__annotations__.items()
        schedule = Schedule(**{name: _whole(config, name, hint) for name, hint in steps})
        optimizer = make(config, "optimizer")
        return Runner(
            task,
            loop,
            method,
            optimizer,
            make(config, "scheduler"),
            schedule,
            directory,
            config.seed,
            where,
            metrics,
            device.episodes_chunk,
            settings,
            device.capture,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def parts(config: DictConfig, options: dict[str, str]) -> Parts:
    """Builds the device, the task, the inner loop and the method.

    Raises:
        UsageError: A setting is wrong.
        ValueError: Likewise.
    """
    device: Device = make(config, "device")
    where = device.prepare()
    _check_pair(config, options)
    sources: list[Source] = []

    def data() -> Any:
        sources.append(make(config, "data"))
        return sources[-1]

    offered = {
        "device": where,
        "data": data,
        "model": lambda: make(config, "model"),
        "generator": lambda: generator(_whole(config, "seed"), "data"),
    }
    task = make(config, "task", offered)
    read = [getattr(source, "statement", "") for source in sources]
    task.statement = " ".join(filter(None, [*read, task.statement]))
    loop = InnerLoop(task, make(config, "solver"), make(config, "start"))
    return Parts(device, where, task, loop, make(config, "method"))


def make(config: DictConfig, key: str, offered: dict[str, Any] | None = None) -> Any:
    """The object that the node at `key` configures, its arguments checked against annotations.

    Args:
        config: The whole configuration.
        key: Of the node.
        offered: Objects, or functions that make them, for the arguments of these names.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        raise UsageError(f"A run needs {key}=..., got null. See bilevel-run {key}=?")
    parameters = check_arguments(node, key, set(offered or {}))
    extra = {
        name: value() if isinstance(value, types.FunctionType) else value
        for name, value in (offered or {}).items()
        if name in parameters
    }
    try:
        return instantiate(node, **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise UsageError(str(cause)) from cause
        raise UsageError(f"{key}: {str(error).splitlines()[0]}") from error


def _whole(config: DictConfig, name: str, hint: Any = int) -> int:
    if not fits(config[name], hint):
        raise UsageError(f"{name} needs a whole number, got {config[name]!r}.")
    return config[name]


def _check_pair(config: DictConfig, options: dict[str, str]) -> None:
    """Checks that the data are of the kind that the task is posed on, before they are read."""
    if not OmegaConf.select(config, "task._target_"):
        raise UsageError("A run needs task=..., got null. See bilevel-run task=?")
    task = get_object(config.task._target_)
    needs = getattr(task, "needs", None)
    name, chosen = options.get("task", task.__name__), options.get("data", "the data given")
    if needs is None:
        if config.get("data") is not None:
            raise UsageError(f"task={name} brings its own data, got data={chosen}. Leave it out.")
        return
    found = get_object(config.data._target_) if config.get("data") else None
    if found is None or not issubclass(found, needs):
        fitting = ", ".join(f"data={option}" for option in options_of_kind("data", needs))
        raise UsageError(f"task={name} needs other data than data={chosen}. Use {fitting}.")


def _objective(name: str, scores: Row) -> float:
    if name not in scores:
        raise UsageError(f"objective needs one of {', '.join(scores)}, got {name}.")
    return float(scores[name])

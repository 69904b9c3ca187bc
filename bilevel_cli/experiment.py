"""From a configuration to a run: builds the objects, runs them, and says how it ended."""

import logging
import traceback
import types
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.arguments import check_arguments, fits
from bilevel_cli.data.base import Source
from bilevel_cli.device import Device, generator
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.interrupts import Interrupted
from bilevel_cli.loop import InnerLoop
from bilevel_cli.manifest import Manifest
from bilevel_cli.methods.base import Hypergradient
from bilevel_cli.options import options_of_kind
from bilevel_cli.runner import CHECKPOINT, Diverged, Runner, Schedule
from bilevel_cli.tasks.base import Task

log = logging.getLogger(__name__)

# Where a run goes and what a sweeper reads of it, which change no number.
_NOT_SETTINGS = ("hydra", "objective")


def run(config: DictConfig, directory: Path, options: dict[str, str]) -> float | None:
    """Runs the experiment that `config` describes, in `directory`.

    Args:
        config: The composed configuration.
        directory: Of the run. One that holds a checkpoint of the same configuration is continued.
        options: The option chosen in each config group, for messages.

    Returns:
        The last value of the eval column that config.objective names, if it names one.

    Raises:
        UsageError: A setting is wrong; nothing was run.
        Failed: The run diverged or raised; its manifest says so too.
        Interrupted: By a signal; the run can be continued.
    """
    settings = resolved(config)
    directory.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(directory, settings)
    try:
        runner = build(config, settings, directory, options)
        manifest.begin(runner.device, data=runner.task.statement, first_step=runner.step)
        if runner.task.statement:
            log.info(runner.task.statement)
        if runner.step:
            log.info("Continuing after step %d in %s", runner.step, directory)
        scores = runner.run()
        files = [runner.train.path, runner.evals.path, *runner.result()]
        objective = _objective(config.objective, scores)
    except UsageError as error:
        # Refused, perhaps because the directory holds another run: its manifest is not ours.
        if not (directory / CHECKPOINT).exists():
            manifest.end("failed", str(error))
        raise
    except Interrupted as error:
        manifest.end("interrupted", str(error))
        raise
    except KeyboardInterrupt:
        manifest.end("interrupted", "stopped at once")
        raise
    except Diverged as error:
        manifest.end("diverged", str(error))
        raise Failed(f"Diverged. {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        manifest.end("failed", reason)
        (directory / "traceback.txt").write_text(traceback.format_exc())
        raise Failed(f"{reason[:300]} The traceback is in {directory}.") from error
    manifest.end("completed")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    log.info("After %d outer steps: %s", runner.step, shown)
    for path in files:
        log.info("Wrote %s", path)
    return objective


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


def _objective(name: str | None, scores: dict[str, Any]) -> float | None:
    if name is None:
        return None
    if name not in scores:
        raise UsageError(f"objective needs one of {', '.join(scores)}, got {name}.")
    return float(scores[name])

"""From a configuration to a run: builds the objects, runs them, and says how it ended."""

import inspect
import logging
import traceback
import types
import typing
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.device import Device, generator
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.loop import InnerLoop
from bilevel_cli.manifest import Manifest
from bilevel_cli.options import options_of_kind
from bilevel_cli.runner import CHECKPOINT, Diverged, Interrupted, Runner, Schedule

log = logging.getLogger(__name__)

# Cadence and place, which change no number.
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
        device: Device = _make(config, "device")
        where = device.prepare()
        task_class = get_object(config.task._target_)
        _check_pair(task_class, config, options)
        offered = {
            "device": where,
            "data": lambda: _make(config, "data"),
            "model": lambda: _make(config, "model"),
            "generator": lambda: generator(_whole(config, "seed"), "data"),
        }
        task = _make(config, "task", offered)
        loop = InnerLoop(task, _make(config, "solver"), _make(config, "start"))
        method = _make(config, "method")
        metrics = {name: _make(config, f"metrics.{name}") for name in config.get("metrics") or {}}
        schedule = Schedule(**{name: _whole(config, name) for name in Schedule.__annotations__})
        optimizer = _make(config, "optimizer")
        return Runner(
            task,
            loop,
            method,
            optimizer,
            _make(config, "scheduler"),
            schedule,
            directory,
            config.seed,
            where,
            metrics,
            device.episodes_chunk,
            settings,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _make(config: DictConfig, key: str, offered: dict[str, Any] | None = None) -> Any:
    """Instantiates the node at `key`, whose arguments are checked against the annotations.

    Args:
        config: The whole configuration.
        key: Of the node.
        offered: Objects, or functions that make them, for the arguments of these names.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        raise UsageError(f"A run needs {key}=..., got null. See bilevel-run {key}=?")
    parameters = _check_arguments(node, key, set(offered or {}))
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


def _check_arguments(node: DictConfig, key: str, offered: set[str]) -> set[str]:
    """Checks the values of a node with a `_target_`. Returns the names of all its parameters."""
    try:
        target = get_object(node._target_)
    except Exception as error:  # whatever the module raises when it is imported
        raise UsageError(f"{key}._target_: {str(error).splitlines()[0]}") from error
    signature = inspect.signature(target).parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    given = [name for name in node if not str(name).startswith("_")]
    for name in map(str, given):
        if name not in signature and not open_ended:
            known = ", ".join(name for name in signature if name not in offered)
            raise UsageError(f"{key} takes {known or 'no settings'}, got {name}. Remove it.")
        value = node[name]
        if isinstance(value, DictConfig) and "_target_" in value:
            _check_arguments(value, f"{key}.{name}", set())
        elif name in hints and not _fits(value, hints[name]):
            raise UsageError(f"{key}.{name} needs {_spelled(hints[name])}, got {value!r}.")
    return set(signature)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the annotated type; anything not plain is left to the class."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint in (float, int) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    if hint in (int, str, bool):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    # Classes of ours are built by `_target_`; a plain value in their place is a mistake.
    plain = isinstance(value, int | float | str | bool | None)
    return not (plain and inspect.isclass(hint) and hint.__module__.startswith("bilevel_cli"))


def _spelled(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "a name", bool: "true or false"}
    options = typing.get_args(hint) or (hint,)
    return " or ".join(
        "null"
        if option is type(None)
        else names.get(option, f"a {getattr(option, '__name__', option)}")
        for option in options
    )


def _whole(config: DictConfig, name: str) -> int:
    if not _fits(config[name], int):
        raise UsageError(f"{name} needs a whole number, got {config[name]!r}.")
    return config[name]


def _check_pair(task: Any, config: DictConfig, options: dict[str, str]) -> None:
    """Checks that the data are of the kind that the task is posed on, before they are read."""
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

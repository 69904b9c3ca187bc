"""From a configuration to a run: builds the objects, runs them, and says how it ended."""

import contextlib
import hashlib
import inspect
import logging
import re
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from bilevel_cli.config.arguments import check_arguments, fits, target
from bilevel_cli.config.options import options_of_kind
from bilevel_cli.core import trees
from bilevel_cli.core.host import is_host
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.random import generator
from bilevel_cli.core.task import Task
from bilevel_cli.data.base import Source
from bilevel_cli.errors import (
    NO_SPACE,
    UNWRITABLE,
    Failed,
    Unwritten,
    UsageError,
    out_of_memory,
    refusal,
)
from bilevel_cli.loggers.base import Loggers
from bilevel_cli.machine import place, signals
from bilevel_cli.machine.device import Device
from bilevel_cli.machine.memory import peak_memory_mb
from bilevel_cli.machine.processes import following, leading
from bilevel_cli.machine.ranks import ALONE, Ranks
from bilevel_cli.nn import blame
from bilevel_cli.nn.functional import Functional
from bilevel_cli.records.lock import locked
from bilevel_cli.records.manifest import Doubt, Manifest
from bilevel_cli.records.settings import NOT_SETTINGS
from bilevel_cli.runs import checkpoint
from bilevel_cli.runs.origin import hardware, origin, process
from bilevel_cli.runs.replicas import Replicas
from bilevel_cli.runs.runner import CHECKPOINT, Diverged, Row, Runner, Schedule

log = logging.getLogger(__name__)

# What the memory of a run grows with, besides its parameters.
SIZES = (
    "task.batch_size",
    "task.outer_batch_size",
    "task.episodes",
    "task.folds",
    "data.train",
    "data.validation",
    "data.test",
    "inner_steps",
)

MOST_REPLICAS = 10_000


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
        UsageError: A setting is wrong, or another run is in the folder; nothing was run.
        Failed: A run diverged or raised; its manifest says so too. Its replicas went on.
        Unwritten: Of these, one that could not write its files.
        Interrupted: By a signal; what was not complete can be continued.
    """
    replicas = _replicas(config, directory)
    with contextlib.ExitStack() as locks:
        for _, folder in replicas:
            locks.enter_context(_folder(folder))
        ranks = locks.enter_context(leading(lambda: [_plain(config), str(directory), options]))
        runs = [_Run(one, folder, len(replicas), ranks) for one, folder in replicas]
        if len(replicas) > 1 and (directory / ".hydra").is_dir():
            for one in runs:  # Hydra notes the configuration of a single run
                one.note_config()
        return _run(runs, config.objective, options)


def follow() -> None:
    """Takes part in the run that the first process has begun; writes and says nothing.

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
        runner = build(config, resolved(config), Path(directory), options, ranks)
        (outcome,) = Replicas([runner]).run()
        if isinstance(outcome, BaseException):
            raise outcome
        runner.result()


def _run(runs: "list[_Run]", objective: str | None, options: dict[str, str]) -> float | None:
    _carry_out(runs, options)
    failures = {one: failure for one in runs if (failure := one.end())}
    for kind in (KeyboardInterrupt, UsageError):
        for one in runs:
            if isinstance(one.outcome, kind):
                raise one.outcome
    completed = [one for one in runs if one not in failures]
    _report(completed)
    if failures:
        unwritten = any(isinstance(failure, Unwritten) for failure in failures.values())
        error = next(iter(failures)).outcome
        assert isinstance(error, Exception)
        message = _summary({one: str(failure) for one, failure in failures.items()}, len(runs))
        raise (Unwritten if unwritten else Failed)(message) from error
    if objective is None:
        return None
    return fmean(_objective(objective, one.scores) for one in completed)


@contextlib.contextmanager
def _folder(directory: Path) -> Iterator[None]:
    """Makes the folder of a run, and keeps others out of it."""
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory))
        except OSError as error:
            raise _unwritable(error, directory) from error
        yield


def _unwritable(error: OSError, directory: Path) -> UsageError | Unwritten:
    if error.errno in NO_SPACE:
        return _unwritten(error, directory)
    return UsageError(
        f"A run needs a folder that it can write, got {directory}: {error.strerror}. "
        "Set hydra.run.dir."
    )


def _unwritten(error: OSError, directory: Path) -> Unwritten:
    way_out = "Free some" if error.errno in NO_SPACE else "Once it can"
    return Unwritten(
        f"A run needs to write its files in {directory}, got: {error.strerror}. {way_out}, and "
        f"it continues with hydra.run.dir={directory}."
    )


class _Run:
    """One run: its folder, its manifest, and how it ended.

    Args:
        config: The composed configuration.
        directory: Of the run.
        replicas: How many runs there are.
        ranks: The processes that share it.

    Attributes:
        runner: None until it is built.
        outcome: The last scores, or what the run raised; None until it ends.
    """

    def __init__(self, config: DictConfig, directory: Path, replicas: int, ranks: Ranks) -> None:
        self.config, self.directory, self.replicas = config, directory, replicas
        self.ranks = ranks
        self.settings = resolved(config)
        self.manifest = Manifest(directory, self.settings, process())
        self.runner: Runner | None = None
        self.begun = False
        self.outcome: Row | BaseException | None = None
        self.files: list[Path] = []

    def note_config(self) -> None:
        """Notes the configuration where Hydra does for a run by itself."""
        try:
            (self.directory / ".hydra").mkdir(exist_ok=True)
            OmegaConf.save(self.config, self.directory / ".hydra" / "config.yaml")
        except OSError as error:
            self.outcome = error

    def build(self, options: dict[str, str]) -> None:
        if self.outcome is not None:
            return
        try:
            names = self.config.get("loggers") or {}
            loggers = {name: make(self.config, f"loggers.{name}") for name in names}
            self.runner = build(self.config, self.settings, self.directory, options, self.ranks)
            self.runner.loggers = Loggers(loggers)
        except Exception as error:
            self.outcome = error

    def begin(self) -> None:
        """Notes the beginning of a run that was built."""
        runner = self.runner
        if runner is None:
            return
        try:
            task = runner.task
            self.manifest.begin(
                hardware(runner.device),
                task.statement,
                task.checksum,
                runner.step,
                task.higher_is_better,
                runner.doubts.found,
            )
        except OSError as error:
            self.outcome = error
            return
        if runner.step:
            log.info("Continuing after step %d in %s", runner.step, self.directory)
        runner.doubts.told = self._note_doubts
        runner.loggers.begin(self.directory, self.settings, runner.step)
        self.begun = True

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

    def end(self) -> Failed | None:
        """Notes the end. Returns the failure, if it was one."""
        match self.outcome:
            case None:  # refused with another one
                return None
            case dict():
                self._note("completed")
                return None
            case UsageError() as error:
                # Refused, perhaps since the directory holds another run: its manifest is not ours.
                if self.begun or not checkpoint.exists(self.directory / CHECKPOINT):
                    self._note("failed", str(error))
                return None
            case KeyboardInterrupt() as error:
                self._note("interrupted", str(error) or "stopped at once")
                return None
            case Diverged() as error:
                self._note("diverged", str(error))
                return Failed(f"Diverged. {error}")
            case error:
                return self._fail(error)

    def _fail(self, error: BaseException) -> Failed:
        if refused := refusal(error, UNWRITABLE):
            failure: Failed = _unwritten(refused, self.directory)
            self._note("failed", str(failure))
            return failure
        with contextlib.suppress(OSError):
            lines = traceback.format_exception(error)
            (self.directory / "traceback.txt").write_text("".join(lines))
        if out_of_memory(error):
            reason = self._too_large(error)
            self._note("oom", reason)
            return Failed(reason)
        words = " ".join(str(error).split()) or "no message"
        at = f" ({where})" if (where := blame.place(error)) else ""
        reason = f"{type(error).__name__}: {words}{at}"
        self._note("failed", reason)
        return Failed(
            f"{type(error).__name__}: {words[:300]}{at} The traceback is in {self.directory}."
        )

    def _note_doubts(self, doubts: dict[str, Doubt]) -> None:
        try:
            self.manifest.doubt(doubts)
        except OSError as refused:  # its end is noted too, and says what the disk allows
            log.warning("manifest.json does not have the doubts: %s", refused.strerror)

    def _note(self, status: str, error: str | None = None) -> None:
        counts = {}
        if self.runner is not None:
            counts = {"diverged_at": self.runner.diverged_at, "restores": self.runner.restores}
            self.runner.loggers.end(status)
        try:
            self.manifest.end(status, error, **counts)
        except OSError as refused:
            log.warning("manifest.json still has the last status: %s", refused.strerror)

    def _too_large(self, error: BaseException) -> str:
        """What did not fit into memory, and the settings that need less."""
        device, method = (self.settings.get(name) or {} for name in ("device", "method"))
        found = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
        needed = f"Out of memory, asked for {found[1]}" if found else "Out of memory"
        ways = [f"replicas < {self.replicas}"] if self.replicas > 1 else []
        if method.get("segment", 1) != 1:
            ways.append("method.segment=1")
        if device.get("memory_budget"):
            ways.append(f"another device.memory_budget than {device['memory_budget']}")
        if device.get("dtype") == "float64":
            ways.append("device.dtype=float32")
        if (runner := self.runner) is not None:
            needed += (
                f" after {peak_memory_mb(runner.device):.0f} MB on {runner.device}, by "
                f"{runner.schedule.inner_steps} inner steps on {_size(runner.carry)} numbers and "
                f"{_size(runner.outer)} outer parameters"
            )
            if runner.task.episodes and not is_host(runner.device):
                ways.append("device.episodes_chunk=1")
        sizes = [name for name in SIZES if OmegaConf.select(self.config, name) is not None]
        return f"{needed}. Less is needed with {', '.join([*ways, *sizes])}."

    @property
    def scores(self) -> Row:
        assert isinstance(self.outcome, dict)
        return self.outcome


def _replicas(config: DictConfig, directory: Path) -> list[tuple[DictConfig, Path]]:
    """The configuration and the folder of each run."""
    count = _whole(config, "replicas")
    if not 1 <= count <= MOST_REPLICAS:
        raise UsageError(
            f"A run needs replicas from 1 to {MOST_REPLICAS}, got replicas={count}. Set replicas."
        )
    if count == 1:
        return [(config, directory)]
    if place.here().count > 1:
        raise UsageError(
            f"Several processes share a single run, got replicas={count}. Use replicas=1, or one "
            "process."
        )
    first, found = _whole(config, "seed"), []
    for seed in range(first, first + count):
        one = OmegaConf.merge(config, {"seed": seed, "replicas": 1})
        assert isinstance(one, DictConfig)
        found.append((one, directory / f"seed={seed}"))
    return found


def _carry_out(runs: list[_Run], options: dict[str, str]) -> None:
    """Builds the runs, and takes their outer steps; none where one of them is refused."""
    try:
        for one in runs:
            one.build(options)
            if isinstance(one.outcome, UsageError):
                return
        for one in runs:
            one.begin()
        ready = [one for one in runs if one.outcome is None]
        runners = [one.runner for one in ready if one.runner]
        for statement in dict.fromkeys(runner.task.statement for runner in runners):
            if statement:
                log.info(statement)
        for one, outcome in zip(ready, Replicas(runners).run(), strict=True):
            one.conclude(outcome)
    except KeyboardInterrupt as error:
        for one in runs:
            one.outcome = error if one.outcome is None else one.outcome


def _size(tree: Any) -> int:
    return sum(leaf.numel() for leaf in trees.leaves(tree))


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
    return {str(key): value for key, value in settings.items() if key not in NOT_SETTINGS}


def _plain(config: DictConfig) -> Any:
    """`config` with its interpolations filled in: other processes know nothing of Hydra's own."""
    resolved(config)  # which says where one leads nowhere
    return OmegaConf.to_container(config, resolve=True)


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
    ranks: Ranks = ALONE,
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
            config.on_divergence,
            config.resume,
            origin(where, task.checksum),
            ranks,
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

    digest = hashlib.sha256()

    def data() -> Any:
        sources.append(_digested(make(config, "data"), digest.update))
        return sources[-1]

    offered = {
        "device": where,
        "data": data,
        "model": lambda: _model(config),
        "generator": lambda: generator(_whole(config, "seed"), "data"),
    }
    task = make(config, "task", offered)
    read = [getattr(source, "statement", "") for source in sources]
    task.statement = " ".join(filter(None, [*read, task.statement]))
    task.checksum = digest.hexdigest()[:16] if sources else None
    loop = InnerLoop(task, make(config, "solver"), make(config, "start"))
    method: Hypergradient[Any] = make(config, "method")
    _check_twice(task, method)
    return Parts(device, where, task, loop, method)


def _model(config: DictConfig) -> Any:
    """The constructor of models: a class with some of its arguments given."""
    node = config.get("model")
    plain = isinstance(node, DictConfig) and not node.get("_partial_")
    if plain and inspect.isclass(target(node, "model")):
        raise UsageError(
            f"model needs _partial_: true in its yaml, since each start calls the constructor of "
            f"{node._target_}. Add that line."
        )
    return make(config, "model")


def _check_twice(task: Task, method: Hypergradient[Any]) -> None:
    """Checks that the models of a task have the second derivatives that a method takes."""
    models = [value for value in vars(task).values() if isinstance(value, Functional)]
    reason = next((model.not_twice for model in models if model.not_twice), "")
    if reason and _takes_products(method):
        raise UsageError(
            f"{type(method).__name__} needs second derivatives, got a model without: {reason}. "
            "Replace that operation, or use a method without products, such as method=f2sa or "
            "method=darts."
        )


def _takes_products(method: Hypergradient[Any]) -> bool:
    one = {"x": torch.zeros(1)}
    try:
        return float(method.cost(1, one, one, {}).hvps) > 0
    except KeyError:  # of a metric, which only an estimate has
        return True


def _digested(source: Any, update: Callable[[Any], None]) -> Any:
    """`source`, which hands the bytes of what it delivers to `update`: 0.1 s for all of MNIST."""

    def watched(deliver: Callable[..., Any]) -> Callable[..., Any]:
        def delivered(*given: Any) -> Any:
            parts = deliver(*given)
            for part in parts:
                fields = [part] if isinstance(part, Tensor) else vars(part).values()
                for field in fields:
                    update(f"{field.dtype} {list(field.shape)}".encode())
                    update(field.cpu().contiguous().view(-1).view(torch.uint8).numpy())
            return parts

        return delivered

    for name in ("splits", "classes"):
        if hasattr(source, name):
            setattr(source, name, watched(getattr(source, name)))
    return source


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
        if cause is None:
            raise UsageError(f"{key}: {' '.join(str(error).split())}") from error
        if out_of_memory(cause):
            raise cause from None
        if isinstance(cause, ValueError) and not blame.place(cause):
            raise UsageError(str(cause)) from cause
        raise UsageError(f"{key}: {blame.explained(cause)}") from cause


def _whole(config: DictConfig, name: str, hint: Any = int) -> int:
    if not fits(config[name], hint):
        raise UsageError(f"{name} needs a whole number, got {config[name]!r}.")
    return config[name]


def _check_pair(config: DictConfig, options: dict[str, str]) -> None:
    """Checks that the data are of the kind that the task is posed on, before they are read."""
    if not OmegaConf.select(config, "task._target_"):
        raise UsageError("A run needs task=..., got null. See bilevel-run task=?")
    task = target(config.task, "task")
    needs = getattr(task, "needs", None)
    name, chosen = options.get("task", task.__name__), options.get("data", "the data given")
    if needs is None:
        if config.get("data") is not None:
            raise UsageError(f"task={name} brings its own data, got data={chosen}. Leave it out.")
        return
    found = target(config.data, "data") if config.get("data") else None
    if not (inspect.isclass(found) and issubclass(found, needs)):
        fitting = ", ".join(f"data={option}" for option in options_of_kind("data", needs))
        raise UsageError(f"task={name} needs other data than data={chosen}. Use {fitting}.")


def _objective(name: str, scores: Row) -> float:
    if name not in scores:
        raise UsageError(f"objective needs one of {', '.join(scores)}, got {name}.")
    return float(scores[name])

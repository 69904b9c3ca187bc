"""Makes the objects that a configuration describes."""

import hashlib
import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from bilevel_cli.config.arguments import check_arguments, whole
from bilevel_cli.config.options import options_of_kind
from bilevel_cli.config.targets import check_targets, target
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.random import DATA, generator
from bilevel_cli.core.task import Task
from bilevel_cli.data.base import Source
from bilevel_cli.data.checksum import digested
from bilevel_cli.errors import UsageError, out_of_memory
from bilevel_cli.machine.device import Device
from bilevel_cli.nn import blame
from bilevel_cli.nn.functional import Functional


class Posed(NamedTuple):
    """A task, and the device where its data live."""

    device: Device
    where: torch.device
    task: Task


class Parts(NamedTuple):
    """The objects of which an experiment is a product, and the device where its data live."""

    device: Device
    where: torch.device
    task: Task
    loop: InnerLoop
    method: Hypergradient[Any]


def parts(config: DictConfig, options: dict[str, str], known: Posed | None = None) -> Parts:
    """Builds the device, the task, the inner loop and the method.

    Args:
        config: The whole configuration.
        options: The option chosen in each config group, for messages.
        known: What `posed` made of the same device, data, model and task; None to make it.

    Raises:
        UsageError: A setting is wrong.
        ValueError: Likewise.
    """
    device, where, task = known or posed(config, options)
    loop = InnerLoop(task, make(config, "solver"), make(config, "start"))
    method: Hypergradient[Any] = make(config, "method")
    _check_twice(task, method)
    _check_precision(task, device)
    return Parts(device, where, task, loop, method)


def posed(config: DictConfig, options: dict[str, str]) -> Posed:
    """Builds the device and the task; arguments and errors as of `parts`."""
    device: Device = make(config, "device")
    where = device.prepare()
    _check_pair(config, options)
    sources: list[Source] = []

    digest = hashlib.sha256()

    def data() -> Any:
        sources.append(digested(make(config, "data"), digest.update))
        return sources[-1]

    offered = {
        "device": where,
        "data": data,
        "model": lambda: _model(config),
        "generator": lambda: generator(whole(config, "seed"), DATA),
    }
    task = make(config, "task", offered)
    read = [getattr(source, "statement", "") for source in sources]
    task.statement = " ".join(filter(None, [*read, task.statement]))
    task.checksum = digest.hexdigest()[:16] if sources else None
    return Posed(device, where, task)


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


def _model(config: DictConfig) -> Any:
    """A class of models with some of its arguments given; each start calls it for a new model."""
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
    reason = next((model.not_twice for model in _models(task) if model.not_twice), "")
    one = {"x": torch.zeros(1)}
    if reason and method.takes_products(1, one, one):
        raise UsageError(
            f"{type(method).__name__} needs second derivatives, got a model without: {reason}. "
            "Replace that operation, or use a method without products, such as method=f2sa or "
            "method=darts."
        )


def _check_precision(task: Task, device: Device) -> None:
    """Checks that a task has a model, if models are to compute in a precision of their own."""
    if device.precision is not None and next(_models(task), None) is None:
        raise UsageError(
            f"device.precision={device.precision} needs a task with a model that `build` or "
            f"`functional` made, got {type(task).__name__}, which holds none: nothing of it would "
            "be in bfloat16. Use device.precision=null."
        )


def _models(part: Any, depth: int = 3) -> Iterator[Functional]:
    """The models that a task holds, itself or in its parts: its lists, its dicts, its objects."""
    if isinstance(part, Functional):
        yield part
    elif depth and not isinstance(part, (Tensor, nn.Module, str)):
        held: Iterable[Any] = part if isinstance(part, (list, tuple)) else ()
        if isinstance(part, dict) or hasattr(part, "__dict__"):
            held = (part if isinstance(part, dict) else vars(part)).values()
        for one in held:
            yield from _models(one, depth - 1)


def make(
    config: DictConfig, key: str, offered: dict[str, Any] | None = None, *, later: str = ""
) -> Any:
    """The object that the node at `key` configures, its arguments checked against annotations.

    Args:
        config: The whole configuration.
        key: The dotted name of the node.
        offered: By names of arguments, objects for them, or functions that make these objects. The
            constructor gets those that it has an argument for; no other function is called.
        later: The argument that whoever calls the object with `_partial_` gives, which is no
            setting.

    Raises:
        UsageError: A setting is wrong, or the constructor raised an error.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        raise UsageError(f"A run needs {key}=..., got null. See bilevel-run {key}=?")
    check_targets(node, key)
    parameters = check_arguments(node, key, {*(offered or {}), later})
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
    except (KeyboardInterrupt, UsageError):
        raise
    except BaseException as error:  # sys.exit in a class would end the run without a word
        raise UsageError(f"{key}: {blame.explained(error)}") from error

"""Which classes a `_target_` may name: the one place that decides.

A yaml file of your own may name any class. Whatever else names one, a command line or the manifest
of a run, may name those of the shelves and of `torch.optim`. What counts is where a class is
defined, not the name it is reached by: `torch.optim.optimizer.torch.load` is at home in
`torch.serialization`.
"""

import ast
import contextlib
import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from bilevel_cli.config import constructors
from bilevel_cli.errors import UsageError
from bilevel_cli.nn import blame

TARGET = "_target_"
OURS = ("bilevel_cli", "torch.optim")

# Where the classes of conf/ are at home, and those that may stand in for them. Other rooms have
# classes that write files or start processes.
SHELVES = (
    *("models", "solvers", "starts", "linear_solvers", "optimizers", "methods", "data", "tasks"),
    *("metrics", "loggers", "core", "machine.device"),
)
HOMES = (*(f"bilevel_cli.{shelf}" for shelf in SHELVES), "torch.optim")


def is_ours(name: str) -> bool:
    """Whether a dotted name begins with one of our packages."""
    return _within(name, OURS)


def on_a_shelf(name: str) -> bool:
    """Whether a dotted name leads to a class that is defined on a shelf, or in `torch.optim`.

    The sources are read, and nothing is imported.
    """
    named = _within(name, HOMES) and all(part.isidentifier() for part in name.split("."))
    found = constructors.definition(name) if named else None
    if found is None or not isinstance(found.statement, ast.ClassDef):
        return False
    return _within(f"{found.module}.{found.statement.name}", HOMES)


def target(node: DictConfig, key: str) -> Any:
    """The class or function that a node names.

    Raises:
        UsageError: It names none, or one that a module of ours has only imported.
    """
    name = node.get(TARGET) if isinstance(node, DictConfig) else None
    if not isinstance(name, str):
        raise UsageError(f"{key} needs _target_=..., the class that it configures, got {name!r}.")
    try:
        with _unsaid("hydra.utils"):  # which would tell the same in three lines
            found = get_object(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the module raises when it is imported, sys.exit too
        raise UsageError(
            f"{key}._target_ needs a class that can be imported, got {name}: "
            f"{blame.explained(blame.cause(error))}"
        ) from error
    if not callable(found) or (is_ours(name) and not _at_home(found)):
        raise UsageError(f"{key}._target_ needs the name of a class, got {name}.")
    return found


def check_targets(node: Any, key: str) -> None:
    """Checks every `_target_` at and below a node, in dicts and lists, before one of them is built.

    Raises:
        UsageError: As `target` does.
    """
    for name, one in targeted(node, key):
        target(one, name)


def targeted(node: Any, key: str) -> Iterator[tuple[str, DictConfig]]:
    """The nodes with a `_target_` at and below a node, each with its dotted name."""
    if isinstance(node, DictConfig):
        if TARGET in node:
            yield key, node
        for name in node:
            yield from targeted(node[name], f"{key}.{name!s}")
    elif isinstance(node, ListConfig):
        for number, value in enumerate(node):
            yield from targeted(value, f"{key}[{number}]")


def outermost(node: Any, key: str) -> Iterator[tuple[str, DictConfig]]:
    """As `targeted`, but for nodes within another one that is found."""
    within = "\0"  # in no key
    for name, one in targeted(node, key):
        if not name.startswith((f"{within}.", f"{within}[")):
            within = name
            yield name, one


def home(found: Any) -> str:
    """The package in which a class or function is defined."""
    return str(getattr(found, "__module__", "")).partition(".")[0]


def _at_home(found: Any) -> bool:
    """Whether a class or function is defined in a package of ours, and known there by its name."""
    home, path = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not (isinstance(home, str) and isinstance(path, str) and _within(f"{home}.{path}", OURS)):
        return False
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return False
    there: Any = sys.modules.get(home)
    for part in path.split("."):
        there = getattr(there, part, None)
    return there is found


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{one}.") for one in packages)


@contextlib.contextmanager
def _unsaid(name: str) -> Iterator[None]:
    """Nothing is logged by the logger of this name within."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before

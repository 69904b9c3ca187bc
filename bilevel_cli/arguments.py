"""Settings checked against the annotations of what they configure, before anything is built."""

import inspect
import types
import typing
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from bilevel_cli.errors import UsageError


def check_arguments(node: DictConfig, key: str, offered: set[str]) -> set[str]:
    """Checks the values of a node with a `_target_`. Returns the names of all its parameters."""
    try:
        target = get_object(node._target_)
    except Exception as error:  # whatever the module raises when it is imported
        raise UsageError(f"{key}._target_: {str(error).splitlines()[0]}") from error
    signature = inspect.signature(target).parameters
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    given = [name for name in node if not str(name).startswith("_")]
    for name in map(str, given):
        if name not in signature and not open_ended:
            known = ", ".join(name for name in signature if name not in offered)
            raise UsageError(f"{key} takes {known or 'no settings'}, got {name}. Remove it.")
        value = node[name]
        if isinstance(value, DictConfig) and "_target_" in value:
            check_arguments(value, f"{key}.{name}", set())
        elif name in hints and not fits(value, hints[name]):
            raise UsageError(f"{key}.{name} needs {_spelled(hints[name])}, got {value!r}.")
    return set(signature)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the annotated type; anything not plain is left to the class."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(hint))
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


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # names that are there for type checkers alone
        return {}


def _spelled(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "a name", bool: "true or false"}
    options = typing.get_args(hint) or (hint,)
    return " or ".join(
        "null"
        if option is type(None)
        else names.get(option, f"a {getattr(option, '__name__', option)}")
        for option in options
    )

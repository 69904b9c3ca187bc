"""Settings checked against the annotations of what they configure, before anything is built."""

import inspect
import math
import types
import typing
from typing import Any

from omegaconf import DictConfig

from bilevel_cli import errors
from bilevel_cli.config.targets import TARGET, is_ours, outermost, target
from bilevel_cli.errors import UsageError

# How the messages call the types of plain values.
WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "a name",
    bool: "true or false",
}


def check_arguments(node: DictConfig, key: str, offered: set[str]) -> set[str]:
    """Checks the values of a node with a `_target_`. Returns the names of all its parameters."""
    found = target(node, key)
    ours = str(found.__module__).startswith("bilevel_cli.")  # these check for themselves
    signature = inspect.signature(found).parameters
    hints = _hints(found.__init__ if inspect.isclass(found) else found)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    given = [name for name in node if not str(name).startswith("_")]
    for name in map(str, given):
        if name in offered or (name not in signature and not open_ended):
            known = [name for name in signature if name not in offered]
            takes, near = ", ".join(known) or "no settings", errors.hint(name, known)
            way_out = " Remove it." if near == "." else ""
            raise UsageError(f"{key} takes {takes}, got {name}{near}{way_out}")
        value = node[name]
        for where, inner in outermost(value, f"{key}.{name}"):
            check_arguments(inner, where, set())
        if isinstance(value, DictConfig) and TARGET in value:
            continue
        if name in hints and not fits(value, hints[name]):
            whole = f"{key}.{name} needs {_spelled(hints[name])}, got {value!r}."
            raise UsageError(whole + _parts(f"{key}.{name}", hints[name]))
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UsageError(f"{key}.{name} needs a number of 64 bits, got {value}.")
        elif isinstance(value, float) and not (ours or math.isfinite(value)):
            raise UsageError(f"{key}.{name} needs a finite number, got {value!r}.")
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
    # Classes of ours and of torch are built by `_target_`: a plain value there is a mistake.
    plain = isinstance(value, int | float | str | bool | None)
    kind = typing.get_origin(hint) or hint
    home = kind.__module__.partition(".")[0] if inspect.isclass(kind) else ""
    return not (plain and (kind in (list, tuple, dict) or home in ("bilevel_cli", "torch")))


def whole(config: DictConfig, name: str, hint: Any = int) -> Any:
    """The setting of this name, a whole number; or None, where `hint` allows that.

    Raises:
        UsageError: It is something else.
    """
    if not fits(config[name], hint):
        raise UsageError(f"{name} needs a whole number, got {config[name]!r}.")
    return config[name]


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # names that are there for type checkers alone
        return {}


def _parts(key: str, hint: Any) -> str:
    """The settings to set where a plain value was given for a class that has some of its own."""
    if not inspect.isclass(hint) or inspect.isabstract(hint) or not is_ours(f"{hint.__module__}."):
        return ""
    return f" Set {', '.join(f'{key}.{name}' for name in inspect.signature(hint).parameters)}."


def _spelled(hint: Any) -> str:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    return " or ".join(
        "null"
        if option is type(None)
        else WORDS.get(option, f"a {getattr(option, '__name__', option)}")
        for option in options
    )

"""Wrong values refused before torch is imported, which takes seconds.

The constructors themselves are the judges: their annotations, and the checks with which they
begin, are read from their source. What needs more than plain values, such as the data, is judged
later, when the object is built; whatever cannot be judged here is left to that moment.
"""

import ast
import contextlib
import functools
import itertools
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from bilevel_cli.config import constructors
from bilevel_cli.config.arguments import WORDS
from bilevel_cli.config.constructors import Definition
from bilevel_cli.config.resolved import resolved
from bilevel_cli.config.targets import is_ours
from bilevel_cli.errors import UsageError

_PLAIN = {
    word: kind for kind, word in ((float, "float"), (int, "int"), (str, "str"), (bool, "bool"))
}
_BUILTINS: tuple[Any, ...] = (
    isinstance,
    getattr,
    hasattr,
    type,
    len,
    min,
    max,
    sum,
    abs,
    all,
    any,
    sorted,
    zip,
)
_BUILTINS += (enumerate, range, map, filter, vars, set, tuple, list, dict, repr, ValueError)
_KNOWN = {each.__name__: each for each in (*_BUILTINS, *_PLAIN.values())}


def check(config: DictConfig) -> None:
    """Refuses values that a constructor would refuse, where its source says so.

    Raises:
        UsageError: A value is of a wrong type, or out of its range.
    """
    for key, node in _nodes(resolved(config), ""):
        _check_types(key, node)
        if reason := _refusal(node):
            raise UsageError(reason)


def _nodes(tree: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The nodes with a `_target_`: those inside of one before it."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield from _nodes(value, f"{prefix}{name}.")
        if isinstance(value, dict) and isinstance(value.get("_target_"), str):
            yield f"{prefix}{name}", value


# ---- types


def _check_types(key: str, node: dict[str, Any]) -> None:
    taken = constructors.parameters(node["_target_"]) or {}
    for name, value in node.items():
        hint = taken[name].annotation if name in taken else None
        if hint is None or isinstance(value, list | dict):
            continue
        if not _fits(value, hint, taken[name].module):
            options = _options(hint, taken[name].module)
            spelled = " or ".join(_spelled(option) for option, _ in options)
            raise UsageError(
                f"{key}.{name} needs {spelled}, got {value!r}.{_parts(key, name, options)}"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UsageError(f"{key}.{name} needs a number of 64 bits, got {value}.")


def _fits(value: Any, hint: ast.expr, module: str) -> bool:
    """As `arguments.fits`, of a plain value and an annotation that is not evaluated."""
    return any(_fits_one(value, option, home) for option, home in _options(hint, module))


def _fits_one(value: Any, hint: ast.expr, module: str) -> bool:
    text = ast.unparse(hint)
    if text == "None":
        return value is None
    if text in ("float", "int") and isinstance(value, bool):
        return False
    if text in _PLAIN:
        return isinstance(value, int | float if text == "float" else _PLAIN[text])
    if text.partition("[")[0] in ("list", "tuple", "dict"):
        return False
    found = constructors.named(hint, module)
    ours = found is not None and found.module.partition(".")[0] in ("bilevel_cli", "torch")
    return not (ours and isinstance(getattr(found, "statement", None), ast.ClassDef))


def _options(hint: ast.expr, module: str) -> list[tuple[ast.expr, str]]:
    """The members of a union, or the one type; names of unions are followed."""
    if isinstance(hint, ast.BinOp):
        return [*_options(hint.left, module), *_options(hint.right, module)]
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        return _options(ast.parse(hint.value, mode="eval").body, module)
    found = constructors.named(hint, module) if isinstance(hint, ast.Name) else None
    if found is not None and isinstance(found.statement, ast.Assign):
        return _options(found.statement.value, found.module)
    return [(hint, module)]


def _spelled(hint: ast.expr) -> str:
    text = ast.unparse(hint)
    return "null" if text == "None" else WORDS.get(_PLAIN.get(text), f"a {text.split('.')[-1]}")


def _parts(key: str, name: str, options: list[tuple[ast.expr, str]]) -> str:
    """The settings to set where a plain value was given for an object that has some of its own."""
    (hint, module), *more = options
    found = None if more else constructors.named(hint, module)
    if found is None or not isinstance(found.statement, ast.ClassDef) or not is_ours(found.module):
        return ""
    taken = constructors.parameters(f"{found.module}.{found.statement.name}")
    return f" Set {', '.join(f'{key}.{name}.{part}' for part in taken)}." if taken else ""


# ---- ranges


def _refusal(node: dict[str, Any]) -> str | None:
    """What the constructor says against the values of a node; None if nothing is known.

    Its checks are carried out on a stand-in that has the settings and nothing else. They end where
    they come to something that only an import could tell.
    """
    found = constructors.definition(node["_target_"])
    if found is None or not is_ours(found.module):  # a stranger's check may ask for anything
        return None
    if not isinstance(found.statement, ast.ClassDef):
        return None
    checks = constructors.checks(found)
    if checks is None:
        return None
    values = {name: _value(value) for name, value in node.items() if not name.startswith("_")}
    own = _class(found.module, found.statement.name)()
    vars(own).update(values)
    assert isinstance(checks.statement, ast.FunctionDef)
    work = (ast.Assign, ast.AnnAssign, ast.Return, ast.With)
    begin = list(itertools.takewhile(lambda s: not isinstance(s, work), checks.statement.body))
    scope = {**_names(begin, checks.module), **values, "self": own}
    for statement in begin:
        try:
            exec(compile(ast.Module([statement], []), checks.module, "exec"), scope)
        except ValueError as error:
            return str(error) or None
        except Exception:  # a name that only an import would define
            return None
    return None


def _value(value: Any) -> Any:
    """A plain value as it is; for a node with a `_target_`, a stand-in of that class."""
    found = constructors.definition(value["_target_"]) if _is_node(value) else None
    if found is None or not isinstance(found.statement, ast.ClassDef):
        return value
    made = _class(found.module, found.statement.name)()
    vars(made).update({name: _value(part) for name, part in value.items()})
    return made


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("_target_"), str)


@functools.cache
def _class(module: str, name: str) -> type:
    """An empty class of this name, with the same family: `isinstance` says what it would say."""
    found = constructors.definition(f"{module}.{name}")
    bases = constructors.bases(found) if found is not None else []
    family = [_class(base.module, getattr(base.statement, "name", "")) for base in bases]
    return type(name, tuple(family), {})


def _names(statements: list[ast.stmt], module: str, depth: int = 3) -> dict[str, Any]:
    """What the names in some statements stand for, as far as the sources tell."""
    scope: dict[str, Any] = {"__builtins__": _KNOWN, "math": math}
    for node in ast.walk(ast.Module(statements, [])):
        if isinstance(node, ast.Name) and node.id not in scope | _KNOWN:
            found = constructors.named(node, module)
            if found is not None:
                scope.update(zip([node.id], _made(found, depth), strict=False))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = constructors.named(node, module)
            for made in _made(found, depth) if found is not None else ():
                room = scope.setdefault(node.value.id, types.SimpleNamespace())
                setattr(room, node.attr, made)
    return scope


def _made(found: Definition, depth: int) -> Iterator[Any]:
    """What a definition makes, if its source tells; of a function of ours alone."""
    statement = found.statement
    if isinstance(statement, ast.ClassDef):
        yield _class(found.module, statement.name)
    elif isinstance(statement, ast.FunctionDef) and depth and is_ours(found.module):
        yield _function(found, depth - 1)
    elif isinstance(statement, ast.Assign):
        with contextlib.suppress(ValueError):  # not a literal
            yield ast.literal_eval(statement.value)


def _function(found: Definition, depth: int) -> Any:
    """A function of the package, made from its source without its annotations and decorators."""
    assert isinstance(found.statement, ast.FunctionDef)
    bare = ast.parse(ast.unparse(found.statement)).body[0]
    assert isinstance(bare, ast.FunctionDef)
    bare.decorator_list, bare.returns = [], None
    for each in ast.walk(bare.args):
        if isinstance(each, ast.arg):
            each.annotation = None
    scope = _names([bare], found.module, depth)
    exec(compile(ast.Module([bare], []), found.module, "exec"), scope)
    return scope[bare.name]

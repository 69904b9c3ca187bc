"""Whether a part takes its derivatives from `bilevel_cli.autodiff`, or from torch behind its back.

torch.func does not see the graph that torch.autograd records, and its levels belong to the whole
process: on the threads that run episodes, two of its transforms take each other's for their own.
`autodiff` chooses the engine that serves where it is called.

The source of a function is parsed, and its names are looked up where the function would look them
up. So no comment and no text is taken for a call, and no import under another name hides one. What
the function calls is followed, as far as it is the user's own.
"""

import ast
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from bilevel_cli.core import autodiff

PLACES: dict[str, tuple[str, ...]] = {
    "torch.func": tuple(torch.func.__all__),
    "torch.autograd": ("backward", "grad"),
    "torch.autograd.functional": ("hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"),
    "torch.autograd.forward_ad": ("make_dual", "unpack_dual"),
}
INSTEAD = {
    "backward": "bilevel_cli.autodiff.grad",
    "functional_call": "bilevel_cli.functional",
    "jacobian": "bilevel_cli.autodiff.jacfwd",
    "jacrev": "bilevel_cli.autodiff.jacfwd",
}


class Use(NamedTuple):
    """A use of torch that `autodiff` should make: which, in which function, and in which line."""

    name: str
    function: str
    place: str

    def __str__(self) -> str:
        short = self.name.rpartition(".")[2]
        named = f".{short}" if hasattr(autodiff, short) else ""
        instead = INSTEAD.get(short, f"bilevel_cli.autodiff{named}")
        return (
            f"Derivatives come from bilevel_cli.autodiff, and {self.function} uses {self.name} "
            f"({self.place}), which fails on threads or within other derivatives. Use {instead}."
        )


def engines_used(part: object, functions: tuple[str, ...]) -> Iterator[Use]:
    """The uses of torch's own derivatives in some functions of an object, and in what they call.

    Args:
        part: A method, a task or a solver.
        functions: Names of functions. Those that the object does not have are passed over.
    """
    seen: set[object] = set()
    for name in functions:
        yield from _within(getattr(type(part), name, None), type(part), seen)


def _within(found: Any, owner: type, seen: set[object]) -> Iterator[Use]:
    """The uses in a function or a class, if it is not ours, nor of another package than `owner`."""
    found = getattr(found, "fget", None) or found  # of a property
    found = inspect.unwrap(getattr(found, "__func__", found)) if callable(found) else found
    home = str(getattr(found, "__module__", "")).partition(".")[0]
    foreign = home == "bilevel_cli" or home != owner.__module__.partition(".")[0]
    if foreign or not isinstance(found, type | types.FunctionType) or found in seen:
        return
    seen.add(found)
    if isinstance(found, type):
        for value in vars(found).values():
            yield from _within(value, found, seen)
        return
    try:
        lines, first = inspect.getsourcelines(found)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):  # typed into a session that keeps no source
        return
    variables = inspect.getclosurevars(found)
    known = {**found.__globals__, **variables.nonlocals, "self": owner, **_imported(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        value = _value(node, known)
        place = f"{inspect.getsourcefile(found)}, line {first + node.lineno - 1}"
        if name := FORBIDDEN.get(id(value)):
            yield Use(name, found.__qualname__, place)
        elif isinstance(node, ast.Attribute) and node.attr == "backward" and value is None:
            yield Use("Tensor.backward", found.__qualname__, place)
        elif value is not owner:  # which is what self stands for
            yield from _within(value, owner, seen)


def _imported(tree: ast.AST) -> dict[str, Any]:
    """What a function imports itself, by the names that it gives them."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                name = one.name if one.asname else one.name.partition(".")[0]
                found[one.asname or name] = importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            home = importlib.import_module(node.module)
            found |= {one.asname or one.name: getattr(home, one.name, None) for one in node.names}
    return found


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """What a name, or a name with dots, stands for; None where only a run would tell."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _value(node.value, known)
        return getattr(base, node.attr, None) if isinstance(base, types.ModuleType | type) else None
    return None


FORBIDDEN = {
    id(getattr(importlib.import_module(place), name)): f"{place}.{name}"
    for place, names in PLACES.items()
    for name in names
}

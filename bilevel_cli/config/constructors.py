"""The constructors that yaml files name, read from their source.

Importing one of our classes imports torch, which takes seconds. Its source says at once which
settings it takes, of which types, and what each is for. Nothing is executed.
"""

import ast
import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Parameter(NamedTuple):
    """What a constructor says about one of its arguments.

    Args:
        annotation: The type, as an expression; None where there is no annotation.
        module: The dotted name of the module in which the names of the annotation are found.
        description: The line of the docstring's `Args`; "" where there is none.
    """

    annotation: ast.expr | None
    module: str
    description: str


class Definition(NamedTuple):
    """A statement that defines a name, and the module that it stands in."""

    statement: ast.stmt
    module: str


def parameters(name: str) -> dict[str, Parameter] | None:
    """What the class or function of this dotted name takes.

    Returns:
        By names of arguments. None where the source is not found, or does not tell: of a class
        whose constructor is inherited from a library in C, say.
    """
    found = definition(name)
    if found is None:
        return None
    if isinstance(found.statement, ast.FunctionDef):
        return _of_function(found.statement, found.module, _described(found.statement))
    if not isinstance(found.statement, ast.ClassDef):
        return None
    family = list(_family(found))
    described: dict[str, str] = {}
    for one in reversed(family):  # what a class says comes before what its bases say
        described |= _described(one.statement)
    own = _own_constructor(family, described)
    return own if own is not None else _fields(family, described)


def definition(name: str) -> Definition | None:
    """The statement that defines a dotted name, followed through imports; None if not found."""
    module, _, inside = name.rpartition(".")
    while module:
        path = source(module)
        if path is not None and "." not in inside:
            return _defined(module, inside)
        module, _, last = module.rpartition(".")
        inside = f"{last}.{inside}"
    return None


def named(expression: ast.expr, module: str) -> Definition | None:
    """The definition of a name that is used in a module; None where it is not found."""
    text = ast.unparse(expression)
    if not re.fullmatch(r"[\w.]+", text):
        return None
    root, _, rest = text.partition(".")
    if not rest:
        return _defined(module, root)
    for statement in parsed(module).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            prefix = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
            for alias in statement.names:
                if (alias.asname or alias.name) == root and not _torch(f"{prefix}{alias.name}"):
                    return definition(f"{prefix}{alias.name}.{rest}")
    return None


def bases(found: Definition) -> list[Definition]:
    """The direct bases of a class of which the source is found.

    Without those of torch where the class has a constructor of its own: they say nothing more about
    its arguments, and to parse their files takes half of the time of all checks.
    """
    assert isinstance(found.statement, ast.ClassDef)
    own = any(getattr(each, "name", "") == "__init__" for each in found.statement.body)
    plain = (
        base.value if isinstance(base, ast.Subscript) else base  # InnerSolver[SolverState]
        for base in found.statement.bases
        if not own or not _from_torch(base, found.module)
    )
    known = (named(base, found.module) for base in plain)
    return [base for base in known if base and isinstance(base.statement, ast.ClassDef)]


def attribute(name: str, wanted: str) -> Any:
    """The literal that a class of this dotted name, or the nearest of its bases, gives a name.

    None where the class is not found, or says nothing of it.
    """
    found = definition(name)
    if found is None or not isinstance(found.statement, ast.ClassDef):
        return None
    for one in _family(found):
        for statement in getattr(one.statement, "body", []):
            if isinstance(statement, ast.Assign):
                targets = statement.targets
            elif isinstance(statement, ast.AnnAssign):
                targets = [statement.target]
            else:
                continue
            if statement.value is not None and wanted in map(ast.unparse, targets):
                return ast.literal_eval(statement.value)
    return None


def checks(found: Definition) -> Definition | None:
    """The function in which a class checks its settings: `__post_init__`, or `__init__`."""
    for one in _family(found):
        assert isinstance(one.statement, ast.ClassDef)
        for statement in one.statement.body:
            named_so = getattr(statement, "name", "") in ("__post_init__", "__init__")
            if named_so and isinstance(statement, ast.FunctionDef):
                return Definition(statement, one.module)
    return None


def _defined(module: str, name: str, seen: frozenset[str] = frozenset()) -> Definition | None:
    if module in seen or source(module) is None:
        return None
    if module == "torch":  # a long file, of which only names such as Tensor are asked for
        return Definition(ast.parse(f"class {name}: ...").body[0], module)
    for statement in _statements(parsed(module)):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return Definition(statement, module)
        if isinstance(statement, ast.Assign) and name in map(ast.unparse, statement.targets):
            return Definition(statement, module)
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    home = absolute(statement, module)
                    return _defined(home, alias.name, seen | {module})
    return None


def _from_torch(expression: ast.expr, module: str) -> bool:
    """Whether a module imports a name from one of torch."""
    return any(
        _torch(absolute(statement, module))
        for statement in parsed(module).body
        if isinstance(statement, ast.ImportFrom)
        if ast.unparse(expression) in (alias.asname or alias.name for alias in statement.names)
    )


def _torch(name: str) -> bool:
    return name.partition(".")[0] == "torch"


def absolute(statement: ast.ImportFrom, module: str) -> str:
    """The module from which a statement in another module imports."""
    if not statement.level:
        return str(statement.module)
    path = source(module)
    package = module if path and path.name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(statement.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{statement.module}"


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, with those for type checkers alone."""
    for statement in tree.body:
        if isinstance(statement, ast.If):
            yield from statement.body
        yield statement


@functools.cache
def source(module: str) -> Path | None:
    """The file of a module in Python; None where it is not found. No package is imported."""
    root, *inside = module.split(".")
    if root in sys.stdlib_module_names:  # nothing that a setting could be wrong about
        return None
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inside:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or []:
        path = Path(folder, *inside)
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


@functools.cache
def parsed(module: str) -> ast.Module:
    """A module of which `source` finds the file; without a statement where it cannot be read."""
    path = source(module)
    assert path is not None
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, OSError):  # the run will say so, when it imports the module
        return ast.Module([], [])


def _family(found: Definition) -> Iterator[Definition]:
    """A class and the bases of which the source is found, nearest first."""
    yield found
    for base in bases(found):
        yield from _family(base)


def _own_constructor(
    family: list[Definition], described: dict[str, str]
) -> dict[str, Parameter] | None:
    """The arguments of the first `__init__`, unless a dataclass comes before it."""
    for one in family:
        assert isinstance(one.statement, ast.ClassDef)
        for statement in one.statement.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return _of_function(statement, one.module, described | _described(statement))
        if _is_record(one.statement):
            return None
    return None


def _is_record(statement: ast.ClassDef) -> bool:
    bases = {ast.unparse(base) for base in statement.bases}
    decorated = any("dataclass" in ast.unparse(each) for each in statement.decorator_list)
    return decorated or "NamedTuple" in bases


def _fields(family: list[Definition], described: dict[str, str]) -> dict[str, Parameter] | None:
    records = [
        one
        for one in family
        if isinstance(one.statement, ast.ClassDef)
        if _is_record(one.statement)
    ]
    if not records:
        return None
    return {
        field.target.id: Parameter(field.annotation, one.module, described.get(field.target.id, ""))
        for one in reversed(records)
        for field in getattr(one.statement, "body", [])
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if "ClassVar" not in ast.unparse(field.annotation)
    }


def _of_function(
    function: ast.FunctionDef, module: str, described: dict[str, str]
) -> dict[str, Parameter] | None:
    if function.args.kwarg is not None:
        return None  # it takes more than it names
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {
        each.arg: Parameter(each.annotation, module, described.get(each.arg, ""))
        for each in given
        if each.arg != "self"
    }


def _described(statement: ast.stmt) -> dict[str, str]:
    """The entries of `Args` in the docstring of a class or function."""
    assert isinstance(statement, ast.ClassDef | ast.FunctionDef)
    text = inspect.cleandoc(ast.get_docstring(statement) or "")
    found = re.search(r"^Args:\n((?:(?:[ ].*)?(?:\n|$))+)", text, re.MULTILINE)
    entries = re.split(r"^ {4}(\w+): ", found[1], flags=re.MULTILINE)[1:] if found else []
    return {
        name: " ".join(entry.split())
        for name, entry in zip(entries[::2], entries[1::2], strict=True)
    }

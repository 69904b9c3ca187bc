"""What a stranger can rely on in any file: its size, its place, and what importing it imports.

The floors themselves, who may import whom, are held by import-linter.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bilevel_cli"
FILES = sorted(PACKAGE.rglob("*.py"))


def named(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {named(path): ast.parse(path.read_text()) for path in FILES}

# A command must answer at once: what takes long to import is imported by the function that uses it.
SLOW = {"torch", "pandas", "matplotlib", "plotly"}
WITHOUT_TORCH = (
    "api.running",
    "api.loading",
    "sweeps",
    "records",
    "report",
    "config.options",
    "config.command_line",
)


def imported(node: ast.AST) -> list[str]:
    """The modules that an import statement imports."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.module, "An import from . would have to be resolved here."
    inner = [f"{node.module}.{name.name}" for name in node.names]
    return [name if name in TREES else node.module for name in inner]


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that are executed when a module is imported."""
    for child in ast.iter_child_nodes(node):
        checked_alone = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not checked_alone and not isinstance(child, ast.FunctionDef):
            yield child
            yield from executed(child)


def within_functions(tree: ast.AST) -> Iterator[str]:
    """The modules of this package that functions import."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    for node in (inner for function in functions for inner in ast.walk(function)):
        yield from (name for name in imported(node) if name.split(".")[0] == PACKAGE.name)


def slow(module: str, seen: set[str] | None = None) -> set[str]:
    """What of `SLOW` is imported with a module, by it or by what it imports."""
    seen = set() if seen is None else seen
    if module.split(".")[0] in SLOW:
        return {module.split(".")[0]}
    if module not in TREES or module in seen:
        return set()
    seen.add(module)
    parent = module.rpartition(".")[0]
    names = [parent, *(name for node in executed(TREES[module]) for name in imported(node))]
    return {found for name in names for found in slow(name, seen)}


# ---- what importing imports


def test_no_command_waits_for_torch_or_pandas() -> None:
    """One process imports the modules in turn, and after each looks for what it has imported."""
    commands = [name for name in TREES if name.startswith(f"{PACKAGE.name}.commands")]
    rooms = tuple(f"{PACKAGE.name}.{room}" for room in (*WITHOUT_TORCH, "errors", "vocabulary"))
    others = [name for name in TREES if name.startswith(rooms)]
    program = f"""
import importlib, sys
for names, unwanted in (({commands}, ["torch", "pandas"]), ({others}, ["torch"])):
    for name in names:
        importlib.import_module(name)
        for library in unwanted:
            assert library not in sys.modules, f"{{name}} imports {{library}}"
"""
    assert len(commands) > 5
    assert len(others) > 30
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_only_doors_import_within_functions_and_only_what_is_slow() -> None:
    doors = (f"{PACKAGE.name}.commands.", f"{PACKAGE.name}.api.")
    for module, tree in TREES.items():
        for name in within_functions(tree):
            assert module.startswith(doors), f"{module} imports {name}"
            assert slow(name), f"{module} can import {name} at its top"


def test_the_mathematics_knows_no_file_and_no_configuration() -> None:
    unwanted = {"pathlib", "io", "json", "omegaconf", "hydra"}
    for module in (name for name in TREES if name.startswith(f"{PACKAGE.name}.core")):
        # A task is told the folder in which it may leave results.
        allowed = {"pathlib"} if module == f"{PACKAGE.name}.core.task" else set()
        for node in ast.walk(TREES[module]):
            roots = {name.split(".")[0] for name in imported(node)}
            assert not roots & (unwanted - allowed), module
            assert not (isinstance(node, ast.Name) and node.id == "open"), module


# ---- sizes, places and names


def test_a_module_and_a_class_can_be_read_in_one_sitting() -> None:
    lines = {named(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 300} == {}
    classes = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert {name: count for name, count in classes.items() if count > 250} == {}


def test_five_files_lie_at_the_root() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert found == {"__init__.py", "__main__.py", "errors.py", "vocabulary.py", "py.typed"}


def test_no_two_files_have_one_name() -> None:
    counts = Counter(path.name for path in FILES)
    assert {name for name, count in counts.items() if count > 1} == {"__init__.py", "base.py"}


def test_what_is_private_stays_in_its_module() -> None:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE.name):
                names = [name.name for name in node.names if not name.name.startswith("__")]
                assert not [name for name in names if name.startswith("_")], module


def test_locks_are_taken_in_one_module() -> None:
    using = [name for name, tree in TREES.items() if "flock" in ast.dump(tree)]
    assert using == [f"{PACKAGE.name}.records.lock"]


# ---- what documents say of files


@pytest.mark.parametrize(
    "document",
    ["CONTRIBUTING.md", "bilevel_cli/core/__init__.py", "bilevel_cli/report/__init__.py"],
)
def test_the_files_that_a_page_names_are_there(document: str) -> None:
    page = PACKAGE.parent / document
    names = set(re.findall(r"\b(?:\w+/)*\w+\.py\b", page.read_text())) - {"x.py"}
    roots = [PACKAGE, PACKAGE.parent, page.parent, *PACKAGE.glob("*/")]
    examples = {"methods/x.py", "tests/methods/test_x.py", "mine/sign.py", "mine/test_sign.py"}
    missing = {name for name in names if not any((root / name).exists() for root in roots)}
    assert len(names) > 5
    assert missing <= examples

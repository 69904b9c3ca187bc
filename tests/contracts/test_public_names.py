"""What a stranger may import is declared once, and is enough for what strangers write."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import plugins
import pytest

import bilevel_cli

ROOT = Path(__file__).parents[2]

# A name that leaves this list breaks someone's plugin.
CONTRACTS = {
    *("Problem", "OutputLoss", "StepData", "Batch", "Params", "FieldTask", "Task"),
    *("InnerSolver", "SolverState", "Oracle", "Start", "InnerLoop", "LinearSolver"),
    *("Hypergradient", "Estimate", "Carry", "Cost", "CannotServe", "Claim", "Trial"),
    *("Metric", "StepView"),
    *("Logger", "Examples", "TwoClasses", "Regression", "Labelled", "Classes", "ClassSplits"),
}
TOOLS = {"autodiff", "trees", "references", "requirements", "functional", "Functional", "build"}
CHECKS = {"check", "check_method", "check_task", "check_solver"}
DOOR = {"run", "load", "hypergradient", "Run", "BilevelEstimate", "UsageError", "Failed"}
ALIASES = {"Batch", "Params"}  # of types of Python's, whose docstring is not theirs


def imported(text: str) -> list[tuple[str, str]]:
    """Modules and names that a program imports from the package."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "bilevel_cli"]


def test_the_names_that_were_promised_are_there_and_no_others() -> None:
    assert set(bilevel_cli.__all__) == {"__version__"} | CONTRACTS | TOOLS | CHECKS | DOOR
    assert set(bilevel_cli.__all__) <= set(dir(bilevel_cli))


@pytest.mark.parametrize("name", bilevel_cli.HOMES)
def test_each_name_is_the_one_of_its_home_and_documented(name: str) -> None:
    found = getattr(bilevel_cli, name)
    home = sys.modules[bilevel_cli.HOMES[name]]
    assert found is getattr(home, name)
    assert found is getattr(bilevel_cli, name)
    if isinstance(found, ModuleType):
        assert found.__doc__
    elif name in ALIASES:
        assert re.search(rf'^{name} = .*\n"""', inspect.getsource(home), re.MULTILINE)
    else:
        own = vars(found).get("__doc__") if isinstance(found, type) else found.__doc__
        assert own
        # What dataclasses and named tuples write themselves is no documentation.
        assert not own.startswith(f"{name}("), own


def test_type_checkers_see_the_same_names_from_the_same_homes() -> None:
    (block,) = (
        node
        for node in ast.parse(inspect.getsource(bilevel_cli)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {name: module for module, name in imported(ast.unparse(block))}
    assert seen == bilevel_cli.HOMES


def test_importing_the_package_imports_no_torch_and_no_file_of_its_own() -> None:
    program = (
        "import sys, bilevel_cli; dir(bilevel_cli)\n"
        "print([m for m in sys.modules if m == 'torch' or m.startswith('bilevel_cli.')])\n"
        "from bilevel_cli import *\n"
        "print(Task.__name__, autodiff.grad.__name__, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.splitlines() == ["[]", "Task grad True"]


def test_a_name_that_is_none_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'bilevel_cli' has no attribute 'Taks'"):
        bilevel_cli.Taks  # noqa: B018 - asked for


PROGRAMS = {name: text for name, text in plugins.FILES.items() if name.endswith(".py")}
PAGES = sorted(path for where in ("*.md", "how-to/*.md") for path in (ROOT / "docs").glob(where))
DOCUMENTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_plugins_import_from_the_package_alone(name: str) -> None:
    names = imported(PROGRAMS[name])
    assert [module for module, _ in names] == ["bilevel_cli"] * len(names)
    assert {name for _, name in names} <= set(bilevel_cli.__all__)


def test_the_plugins_use_the_contracts() -> None:
    names = {name for text in PROGRAMS.values() for _, name in imported(text)}
    assert {"Hypergradient", "Task"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_programs_in_documents_import_from_the_package_alone(path: Path) -> None:
    text = path.read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    programs += re.findall(r'python -c "([^"]*)"', text)
    for program in programs:
        for module, name in imported(program):
            assert module == "bilevel_cli"
            assert not name or name in bilevel_cli.__all__  # none: the package as a whole

"""Every folder of examples/ is a project as a user has it: small, on public names, and it runs."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from commands import bilevel_run, close_logs
from PIL import Image

import bilevel_cli

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "examples").glob("*/__init__.py"))
LINES, PICTURE_LINES = 80, 60
FEW = ("outer_steps=2", "inner_steps=3", "replicas=1", "device=cpu")

examples = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def command(folder: Path) -> list[str]:
    """The first command of its page, as words."""
    (block, *_) = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return shlex.split(block.replace("\\\n", " ").splitlines()[0], comments=True)


def imported(path: Path) -> list[tuple[str, list[str]]]:
    """The modules that a file imports, and the names from each."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((str(node.module), [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
    return found


@examples
def test_an_example_has_its_files_and_a_page(folder: Path) -> None:
    name = folder.name
    files = (f"{name}.py", f"conf/task/{name}.yaml", "README.md", "picture.py", "picture.png")
    assert [file for file in files if not (folder / file).is_file()] == []
    assert (ROOT / "tests" / "examples" / f"test_{name}.py").is_file()
    page = (folder / "README.md").read_text()
    assert "](picture.png)" in page
    assert len(page.splitlines()) <= LINES
    with Image.open(folder / "picture.png") as picture:
        assert min(picture.size) >= 300


@examples
def test_its_task_can_be_read_at_a_glance_and_imports_public_names_alone(folder: Path) -> None:
    task, picture = folder / f"{folder.name}.py", folder / "picture.py"
    assert len(task.read_text().splitlines()) <= LINES
    assert len(picture.read_text().splitlines()) <= PICTURE_LINES
    for path, others in (
        (task, {"torch", "numpy", "sklearn"}),
        (picture, {"torch", "numpy", "matplotlib"}),
    ):
        for module, names in imported(path):
            if module.split(".")[0] == "bilevel_cli":
                assert module == "bilevel_cli"
                assert set(names) <= set(bilevel_cli.__all__)
            else:
                assert module.split(".")[0] in others | {"pathlib", "sys"}, f"{path}: {module}"


@examples
def test_the_command_of_its_page_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where the page says to be
    program, *arguments = command(folder)
    assert program == "bilevel-run"
    code = bilevel_run(monkeypatch, *arguments, *FEW, f"hydra.run.dir={tmp_path / 'run'}")
    close_logs()
    assert code == 0
    assert (tmp_path / "run" / "eval.csv").read_text().count("\n") >= 2


def test_there_are_examples() -> None:
    assert len(FOLDERS) >= 3

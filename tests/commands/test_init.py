"""What bilevel-init writes works as it stands, by the commands that it prints."""

import ast
import shlex
import sys
from pathlib import Path

import pytest
from commands import bilevel_run, exit_code

import bilevel_cli
from bilevel_cli.commands import check, init

KINDS = list(init.KINDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is, and from where Python imports nothing, as for an installed command."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("mine", "shop")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bilevel_init(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return exit_code("bilevel-init", init.main, monkeypatch, *arguments)


def commands(printed: str) -> list[list[str]]:
    """The commands that were printed."""
    return [shlex.split(line) for line in printed.partition("Next\n")[2].splitlines()]


def carried_out(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command, in this process."""
    name, *arguments = command
    if name == "pytest":
        return int(pytest.main([*arguments, "-q", "-p", "no:cacheprovider"]))
    if name == "bilevel-run":
        return bilevel_run(monkeypatch, *arguments, "outer_steps=2", "inner_steps=2")
    assert name == "bilevel-check"
    return exit_code(name, check.main, monkeypatch, *arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("into", ["mine", pytest.param("a path/shop", marks=pytest.mark.slow)])
def test_the_printed_commands_work_as_they_are_printed(
    kind: str,
    into: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bilevel_init(monkeypatch, kind, "my_own", "--into", into) == 0
    printed = capsys.readouterr().out
    code, yaml, test = (folder / into / name for name in files(kind))
    assert f"_target_: {Path(into).name}.my_own.MyOwn\n" in yaml.read_text()
    assert "skeletons" not in code.read_text() + yaml.read_text() + test.read_text()
    assert {command[0] for command in commands(printed)} >= {"pytest", "bilevel-run"}
    for command in commands(printed):
        assert carried_out(command, monkeypatch) == 0, command


def files(kind: str) -> tuple[str, str, str]:
    return "my_own.py", f"conf/{kind}/my_own.yaml", "test_my_own.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("method my-sign", "a letter first, got 'my-sign'. Did you mean 'my_sign'?"),
        ("method MySign", "Did you mean 'my_sign'?"),
        ("method 3d", "got '3d'."),
        ("method größe", "got 'größe'."),
        ("method lambda", "'lambda', which is a word of Python's or Hydra's."),
        ("method null", "'null', which is a word of Python's or Hydra's."),
        ("method cg", "'cg', which is an option already: see bilevel-run method=?."),
        ("method linear_solver", "'linear_solver', which is an option already"),
        ("data json", "'json', which is a module of Python's."),
        ("model torch", "'torch', which is the name of an installed package."),
        ("model bilevel_cli", "'bilevel_cli', which is the name of an installed package."),
        ("task task", "'task', which is a class that its file imports, Task."),
        ("task mine --into my-dir", "whose name Python can import, got my-dir."),
        ("task mine --into test", "Python would find the installed test."),
        ("task mine --into torch", "Python would find the installed torch."),
        ("task mine --into full", "--into needs a folder, got the file full."),
    ],
)
def test_a_name_that_cannot_serve_is_refused_in_one_line_and_nothing_written(
    arguments: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "full").touch()
    assert bilevel_init(monkeypatch, *arguments.split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert [path.name for path in folder.iterdir()] == ["full"]


def test_nothing_is_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bilevel_init(monkeypatch, "method", "my_own") == 0
    written = {path: path.read_text() for path in folder.rglob("*.*") if path.is_file()}
    assert bilevel_init(monkeypatch, "task", "my_own") == 2
    assert "mine/my_own.py is there already" in capsys.readouterr().err
    assert {path: path.read_text() for path in folder.rglob("*.*") if path.is_file()} == written


def test_a_folder_that_cannot_be_written_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").touch()
    assert bilevel_init(monkeypatch, "method", "my_own", "--into", "file/mine") == 3
    assert "bilevel-init: --into needs a folder it can write" in capsys.readouterr().err


def test_skeletons_import_from_the_package_alone() -> None:
    sources = [path for path in init.SKELETONS.glob("*/*.py") if not path.stem.startswith("_")]
    assert len(sources) == 2 * len(KINDS)
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bilevel_cli."):
                assert path.name.startswith("test_")
                assert node.module == f"bilevel_cli.skeletons.{path.parent.name}.{path.stem[5:]}"
            elif isinstance(node, ast.ImportFrom) and node.module == "bilevel_cli":
                assert {name.name for name in node.names} <= set(bilevel_cli.__all__)


def test_what_is_installed_comes_before_what_is_beside_a_folder_of_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(sys.path)
    assert bilevel_init(monkeypatch, "method", "my_own") == 0
    assert bilevel_run(monkeypatch, "--config-dir", "mine/conf", "method=?") == 0
    assert sys.path == [*before, str(folder)]


def test_python_finds_what_was_written_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bilevel_init(monkeypatch, "method", "my_own") == 0
    few = ("task=quadratic", "method=my_own", "outer_steps=2", "inner_steps=2")
    found = bilevel_cli.run(*few, folder="run", config_dir="mine/conf", progress=False)
    assert len(found.eval) == 2

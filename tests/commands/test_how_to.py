"""The pages of docs/how-to can be copied from the first line to the last, and then work."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from commands import bilevel_run, exit_code

from bilevel_cli.commands import check, init, report

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PAGES = sorted(path.stem for path in HOW_TO.glob("*.md") if path.stem != "index")
FEW = ("outer_steps=2", "inner_steps=2", "device=cpu")
SMALL = {"task=meta": ("task.eval_episodes=2", "task.episodes=1")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader is, beside the examples, and from where Python imports nothing yet."""
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block of a page, in their order."""
    return re.findall(r"```(\w+)\n(.*?)```", (HOW_TO / f"{page}.md").read_text(), re.DOTALL)


def follow(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carries out the commands of a block, with fewer steps."""
    for name, *arguments in map(shlex.split, block.splitlines()):
        if name == "pytest":
            code = int(pytest.main([*arguments, "-q", "-p", "no:cacheprovider"]))
        elif name == "python":
            exec(compile(Path(arguments[0]).read_text(), arguments[0], "exec"), {})
            code = 0
        elif name == "bilevel-run":
            small = [
                value for task, values in SMALL.items() if task in arguments for value in values
            ]
            code = bilevel_run(monkeypatch, *arguments, *FEW, *small)
        else:
            mains = {
                "bilevel-check": check.main,
                "bilevel-init": init.main,
                "bilevel-report": report.main,
            }
            code = exit_code(name, mains[name], monkeypatch, *arguments)
        assert code == 0, (name, arguments)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_as_it_is_copied(
    page: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = blocks(page)
    assert {language for language, _ in found} <= {"bash", "python", "yaml", "text"}
    told = ""  # by bilevel-init
    for language, text in found:
        if language == "bash":
            follow(text, monkeypatch)
            printed = capsys.readouterr().out
            told = printed if text.startswith("bilevel-init") else told
        elif language == "text" and text.startswith("Wrote"):
            assert text == told
        elif language in ("python", "yaml"):
            first, _, content = text.partition("\n")
            path = folder / first.removeprefix("# ")
            if path.exists():  # what bilevel-init has written is what the page shows
                assert path.read_text() == content
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_on_the_list_of_pages(page: str) -> None:
    assert f"]({page}.md)" in (HOW_TO / "index.md").read_text()

"""The page of related systems: every system has a verdict, and every one that works a command."""

import shlex
from pathlib import Path

import pytest
from commands import bilevel_run, close_logs
from configs import one_in
from sitemaker import systems

PAGE = Path(__file__).parents[2] / "docs" / "related_systems.md"
LISTED = 32  # systems that the project set out to place, numbered from 1; others may follow
FEW = ("outer_steps=2", "device=cpu")
SYSTEMS = systems.systems()
COMMANDS = {one.title: one.command for one in SYSTEMS if one.command}


def test_every_listed_system_has_a_verdict() -> None:
    assert {one.verdict for one in SYSTEMS} == set(systems.VERDICTS)
    assert set(range(1, LISTED + 1)) <= {one.order for one in SYSTEMS}
    assert len({one.title for one in SYSTEMS}) == len(SYSTEMS)


def test_what_works_has_a_command_and_what_has_no_part_has_none() -> None:
    for one in SYSTEMS:
        if one.verdict != "in part":
            assert (one.command is not None) == (one.verdict == "works"), one.title
        assert all(text.strip() for text in (one.title, one.source, one.what, one.here))


def test_the_page_says_what_the_records_say() -> None:
    generated = PAGE.read_text("utf-8").partition("<!-- systems -->\n")[2]
    assert generated.partition("\n<!-- end of systems -->")[0] == systems.text(), (
        "The records are newer than the page: run python docs/generate.py related."
    )


@pytest.mark.parametrize("title", [one_in(16, n, title) for n, title in enumerate(COMMANDS)])
def test_a_command_of_the_page_runs(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *arguments = shlex.split(COMMANDS[title])
    assert program == "bilevel-run"
    code = bilevel_run(monkeypatch, *arguments, *FEW, f"hydra.run.dir={tmp_path / 'run'}")
    close_logs()
    assert code == 0, title
    assert (tmp_path / "run" / "train.csv").read_text().count("\n") >= 2

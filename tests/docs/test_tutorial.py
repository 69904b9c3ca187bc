"""The tutorial can be followed: its commands run, and what appears looks as it says."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import exit_code

from bilevel_cli.commands import check, report, run

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
MAINS = {"bilevel-run": run.main, "bilevel-check": check.main, "bilevel-report": report.main}
# Put in the place of what takes minutes, whatever the page says.
SHORT = {"outer_steps": "2", "log_every": "1", "eval_every": "1", "inner_steps": "3", "seed": "0"}
# Sentences of a report that depend on how many seeds there are, and the lines that they go on in.
SEEDS = {"few seeds:", "compared with", "iaptt leads,", "after #", "with #,"}


def steps() -> list[tuple[str, str]]:
    """Each command of the page, with the sample of what it prints."""
    blocks = re.findall(r"```(sh|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found: list[tuple[str, str]] = []
    for kind, text in blocks:
        if kind == "sh":
            found += [(line, "") for line in text.splitlines() if line.startswith("bilevel-")]
        elif found and not text.startswith("index,"):  # a file, and no output
            found[-1] = found[-1][0], text
    return found


def shortened(command: str, resumed: bool) -> list[str]:
    """Its arguments, with few steps; one more where a run goes on."""
    name, *arguments = shlex.split(command, comments=True)
    if name != "bilevel-run":
        return arguments
    kept = [word for word in arguments if word.partition("=")[0] not in SHORT]
    short = SHORT | {"outer_steps": "3"} if resumed else SHORT
    return kept + [f"{setting}={value}" for setting, value in short.items()]


def begins(text: str) -> set[str]:
    """The first two words of its lines, but for seeds; all numbers are one word."""
    words = ([word for word in line.split() if "seed=" not in word] for line in text.splitlines())
    return {re.sub(r"[\d.]*\d", "#", " ".join(some[:2])) for some in words if some}


def test_the_commands_run_and_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")  # where lines are broken
    followed = steps()
    assert len(followed) >= 6
    for command, sample in followed:
        name = command.split()[0]
        main: Callable[[], None] = MAINS[name]
        arguments = shortened(command, resumed=sample.startswith("Continuing"))
        with torch.enable_grad():
            assert exit_code(name, main, monkeypatch, *arguments) == 0, command
        out, err = capfd.readouterr()
        assert begins(sample) - SEEDS <= begins(out + err), command
    header = next(line for line in PAGE.read_text().splitlines() if line.startswith("index,"))
    assert Path("outputs/first/weights.csv").read_text().splitlines()[0] == header

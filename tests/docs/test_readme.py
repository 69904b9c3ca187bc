"""The README is short, and its commands print what it shows."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import exit_code
from transcripts import Shown, shape, shown_by, transcripts

import bilevel_cli
from bilevel_cli.commands import check, labels, report, run

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MAINS: dict[str, Callable[[], None]] = {
    "bilevel-run": run.main,
    "bilevel-check": check.main,
    "bilevel-labels": labels.main,
    "bilevel-report": report.main,
}
# What makes a run of the README short where only the shape of its output counts.
SHORT = {"bilevel-run": ["outer_steps=6", "eval_every=1"], "bilevel-labels": ["--folds", "2"]}


def customers(path: Path, rows: int) -> None:
    """A table like the README's: a label by two columns, and a yes in each twelfth row."""
    rng = np.random.default_rng(0)
    minutes, calls = rng.normal(180, 50, rows), rng.integers(0, 9, rows)
    churn = (minutes > 200) | (calls > 5)
    churn[::12] = True  # so that the row at the top goes from yes to no, as in the README
    columns = {"customer": [f"C{row:04d}" for row in range(rows)], "minutes": minutes.round(1)}
    table = pd.DataFrame({**columns, "calls": calls, "churn": np.where(churn, "yes", "no")})
    table.to_csv(path, index=False)


def test_it_fits_on_a_few_screens() -> None:
    assert len(README.read_text().splitlines()) <= 120


def test_it_counts_the_methods() -> None:
    counted = re.search(r"Each of (\d+) methods", README.read_text())
    assert counted
    assert int(counted[1]) == len(list((ROOT / "conf" / "method").glob("*.yaml")))


def test_make_help_lists_every_target_that_has_a_description() -> None:
    described = re.findall(r"^(\S+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert re.findall(r"^  make (\S+) ", shown.stdout, re.MULTILINE) == described


def test_its_links_lead_to_files_and_headings() -> None:
    text = README.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, target


def test_its_commands_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In their order and in this process; with few outer steps, which change numbers alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    customers(tmp_path / "my.csv", 240)
    commands = transcripts(README)
    assert {shlex.split(one.command)[0] for one in commands} == set(MAINS)
    for one in commands:
        name, *arguments = shlex.split(one.command)
        with torch.enable_grad():
            ended = exit_code(name, MAINS[name], monkeypatch, *arguments, *SHORT.get(name, []))
        printed = capfd.readouterr()
        assert ended == 0, printed.err
        assert shown_by(one.output, printed.out.splitlines()), f"{one}\n{printed.out}"


def test_its_program_is_of_public_names() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    used = set(re.findall(r"bilevel_cli\.(\w+)", program))
    assert used == {"run", "hypergradient"}
    assert used <= set(bilevel_cli.__all__)


def test_a_transcript_is_compared_by_its_shape() -> None:
    shown = ["loss 0.5 after 3 s", "...", "done: 2 of 2"]
    assert (
        shown_by(shown, ["loss 1e-07 after  12 s", "anything", "", "done: 9 of 9", "Next"]) is False
    )
    assert shown_by(shown, ["loss 1e-07 after  12 s", "anything", "", "done: 9 of 9"])
    assert not shown_by(shown, ["score 0.5 after 3 s", "done: 2 of 2"])
    assert shape(["a 1,234.5 ± 2", "", "b | ---- |"]) == ["a # ± #", "b | -- |"]


@pytest.mark.slow
def test_a_fresh_machine_gets_from_a_clone_to_the_results(tmp_path: Path) -> None:
    """The commands as they stand, after the two lines that install, in a clone of its own."""
    clone = tmp_path / "bilevel-cli"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    python = f"PYTHON={sys.executable}"
    subprocess.run(["make", "install", python], cwd=clone, check=True, capture_output=True)
    customers(clone / "my.csv", 600)
    path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PATH": path, "COLUMNS": "200"}

    def carried_out(one: Shown) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            shlex.split(one.command), cwd=clone, env=environment, capture_output=True, text=True
        )

    for one in transcripts(README):
        ended = carried_out(one)
        assert ended.returncode == 0, ended.stderr
        assert shown_by(one.output, ended.stdout.splitlines()), f"{one}\n{ended.stdout}"

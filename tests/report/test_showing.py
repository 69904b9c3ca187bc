"""What bilevel-report prints and writes, also while runs are going."""

import csv
import fcntl
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import bilevel_run
from pages import bilevel_report, by_label, measured, method_at, reported, run_at

from bilevel_cli.commands import report as command
from bilevel_cli.report import outputs
from bilevel_cli.report.compare.comparison import Estimate
from bilevel_cli.report.read import runs
from bilevel_cli.report.show import cells, papers, terminal, watch


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.95123, 0.0031, "0.951 +- 0.003"),
        (0.95123, 0.0123, "0.951 +- 0.012"),
        (0.9512, 0.0197, "0.95 +- 0.02"),
        (95.123, 0.31, "95.1 +- 0.3"),
        (1234.5, 67.0, "1230 +- 70"),
        (1.2345e-7, 3.4e-9, "(1.23 +- 0.03)e-07"),
        (0.5, 0.0, "0.5 +- 0"),
        (0.5, 1e-16, "0.5 +- 1e-16"),
        (5e-324, 5e-324, "4.941e-324 +- 5e-324"),
        (0.0, 0.02, "0.00 +- 0.02"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_supports(
    value: float, half: float, text: str
) -> None:
    assert cells.estimate(Estimate(value, value - half, value + half, 3)) == text


def test_a_value_without_an_interval_has_four_digits() -> None:
    assert cells.estimate(Estimate(0.123456, math.nan, math.nan, 1)) == "0.1235"
    assert cells.estimate(Estimate(0.5, 0.45, 0.7, 3)) == "0.50 [0.45, 0.70]"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    method_at(tmp_path, "a_method_with_a_long_name_that_ends_in_one", [0.7, 0.8])
    method_at(tmp_path, "a_method_with_a_long_name_that_ends_in_two", [0.7, 0.8])
    text = terminal.text(reported(tmp_path), width)
    assert max(map(len, text.splitlines())) <= width
    assert "in_one" in text.replace("\n", "")
    assert "in_two" in text.replace("\n", "")


def test_a_long_label_keeps_its_end_where_names_that_are_alike_differ() -> None:
    assert terminal.shortened("abcdefghijklmnopqrstuvwxyz", 16) == "abcdefg...uvwxyz"


def test_latex_escapes_what_it_would_take_for_commands(tmp_path: Path) -> None:
    method_at(tmp_path, r"a_b%&$#{}~^\x", [0.7, 0.8, 0.9])
    method_at(tmp_path, "tied", [0.9, 0.8, 0.68])
    table = papers.latex(reported(tmp_path))
    assert (
        r"a\_b\%\&\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}x & "
        r"$\mathbf{0.8 [0.0, 1.0]}$ & best & 3 & 20 & " in table
    )
    assert r"tied & \underline{$0.8 [0.0, 1.0]$} & level & 3" in table
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1


def test_latex_has_powers_of_ten_where_scores_are_tiny_and_equal(tmp_path: Path) -> None:
    method_at(tmp_path, "equal", [1e-7, 1e-7, 1e-7])
    table = papers.latex(reported(tmp_path))
    assert r"1 \cdot 10^{-7} \pm 0" in table


def test_markdown_has_as_many_cells_in_every_row(tmp_path: Path) -> None:
    method_at(tmp_path, "a|b", [0.7, 0.8])
    method_at(tmp_path, "c", [0.7, 0.6])
    lines = papers.markdown(reported(tmp_path)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "**0.8 [0.0, 1.0]** | best | 2 |" in table[2]


def test_csv_has_options_and_numbers_in_full(tmp_path: Path) -> None:
    method_at(tmp_path / "runs", "cg", [0.7, 0.8, 0.91])
    method_at(tmp_path / "runs", "iaptt", [0.1, 0.2, 0.3], status="diverged")
    papers.write_csv(reported(tmp_path / "runs"), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["method"], first["n"], first["mark"]) == ("cg", "3", "best")
    assert float(first["test_accuracy"]) == np.mean([0.7, 0.8, 0.91])
    assert (second["test_accuracy"], second["diverged"]) == ("", "3")


def test_letters_that_would_move_the_cursor_are_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method_at(tmp_path, "a\x1b[2J\nb", [0.7], task={"name": "\ud800"})
    run_at(tmp_path / "b", choices={"method": "c\x9b2J"}, task={"name": "\ud800"})
    assert bilevel_report(monkeypatch, tmp_path, "--latex", tmp_path / "t.tex") == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metric", "test_acuracy"], "Did you mean 'test_accuracy'"),
        (["--at", "step"], "Did you mean 'steps'"),
        (["--at", "seconds=soon"], "a number after seconds="),
        (["--at", "steps=-1"], "at least 0"),
        (["--at", "end=3"], "no limit"),
        (["--select", "best"], "needs --validation"),
        (["--validation", "outer_loss"], "needs --select best"),
        (["--select", "best", "--validation", "outer_los"], "Did you mean 'outer_loss'"),
        (["--by", "methd"], "Did you mean 'method'"),
        (["--csv", "/nowhere/table.csv"], "in a folder that is there"),
        (["--watch", "--every", "0"], "seconds from 0.1 on"),
    ],
)
def test_a_wrong_option_ends_with_one_line_and_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    method_at(tmp_path, "cg", [0.7])
    assert bilevel_report(monkeypatch, tmp_path, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7])
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "bilevel_cli.commands.report", str(tmp_path)]
    with os.fdopen(writing, "w") as pipe:
        found = subprocess.run(line, stdout=pipe, stderr=subprocess.PIPE, text=True, check=True)
    assert found.stderr == ""


def test_every_file_that_can_be_asked_for_has_a_writer() -> None:
    assert tuple(outputs.WRITERS) == command.FILES


# Watching


class Clock:
    """Sleeps that do something instead, one thing at each; the last is Ctrl-C."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.events = list(events)

    def __call__(self, seconds: float) -> None:
        if not self.events:
            raise KeyboardInterrupt
        self.events.pop(0)()


def sleeping(monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]) -> None:
    """Replaces the sleep of `watch` alone: threads that other tests left sleep too."""
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=clock, strftime=time.strftime))


def test_watching_follows_new_runs_until_all_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with (tmp_path / "held").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def first() -> None:
            folder = run_at(tmp_path / "runs" / "a", (0.1, 0.2), status="running")
            os.link(tmp_path / "held", folder / "lock")

        def grown() -> None:
            with (tmp_path / "runs" / "a" / "eval.csv").open("a") as file:
                file.write("20,40,0.75\n")

        def second() -> None:
            run_at(tmp_path / "runs" / "b", (0.1, 0.4, 0.85), seed=1)

        def over() -> None:
            manifest = tmp_path / "runs" / "a" / "manifest.json"
            manifest.write_text(manifest.read_text().replace("running", "completed"))

        (tmp_path / "runs").mkdir()
        clock = Clock(first, lambda: None, grown, second, over, lambda: None)
        sleeping(monkeypatch, clock)
        table = tmp_path / "t.csv"
        assert bilevel_report(monkeypatch, tmp_path / "runs", "--watch", "--csv", table) == 0
    assert clock.events == []  # the last look only saw that nothing was going still
    text = capsys.readouterr().out
    assert "No run is there yet" in text
    assert text.count("configuration  ") == 4  # of five looks one saw nothing new
    assert "0.8 [0.0, 1.0]" in text
    assert "0.8" in table.read_text()


def test_ctrl_c_leaves_watching_with_code_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("runs").mkdir()
    sleeping(monkeypatch, Clock())
    assert bilevel_report(monkeypatch, tmp_path / "runs", "--watch") == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_metric_that_no_run_has_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_at(tmp_path / "run", status="running")
    evaluations = (folder / "eval.csv").read_text()
    (folder / "eval.csv").unlink()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clock = Clock(lambda: (folder / "eval.csv").write_text(evaluations))
        sleeping(monkeypatch, clock)
        assert bilevel_report(monkeypatch, folder, "--watch", "--metric", "test_accuracy") == 0
    text = capsys.readouterr().out
    assert text.index("Not yet") < text.index("0.9")


def test_a_terminal_is_drawn_over_and_no_higher_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        run_at(tmp_path / str(number), solver={"lr": number})
    (tmp_path / "0" / "eval.csv").write_text("")
    sleeping(monkeypatch, lambda seconds: None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("LINES", "24")
    assert bilevel_report(monkeypatch, tmp_path, "--watch") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("\x1b[H")
    assert printed.out.count("\n") == 23  # the last line of the terminal stays free
    assert "more lines" in printed.out
    assert printed.err == ""


# The whole


def test_what_runs_left_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = bilevel_run(
        monkeypatch,
        *("-m", "method=reverse,cg", "task=quadratic", "replicas=3", "outer_steps=20"),
        *("device=cpu", "device.dtype=float64", f"hydra.sweep.dir={tmp_path}"),
    )
    assert code == 0
    capsys.readouterr()
    found = runs.read([tmp_path])
    assert {run.choices["method"] for run in found} == {"reverse", "cg"}
    assert all("*accuracy" in run.manifest["higher_is_better"] for run in found)
    assert bilevel_report(monkeypatch, tmp_path) == 0
    text = capsys.readouterr()
    assert text.err == ""
    assert "value, lower is better" in text.out
    assert "6 runs in 2 configurations, 6 in the means." in text.out
    last: dict[str, list[float]] = {run.choices["method"]: [] for run in found}
    for run in found:
        last[run.choices["method"]].append(run.evals["value"].iloc[-1])
    rows = by_label(reported(tmp_path))
    for method, values in last.items():
        assert rows[method].estimate.value == pytest.approx(np.mean(values), rel=1e-12)


# A report holds the tables of its runs, 12 numbers of 8 bytes a row, and at times a copy of them.
@pytest.mark.parametrize(
    ("count", "rows"), [(20, 5_000), pytest.param(200, 10_000, marks=pytest.mark.slow)]
)
def test_a_report_takes_the_memory_of_its_rows_and_no_torch(
    count: int, rows: int, tmp_path: Path
) -> None:
    tables = 12 * 8 * count * rows / 1e6
    assert measured(tmp_path, count, rows)["memory"] < 50 + 5 * tables


def test_help_does_not_wait_for_pandas() -> None:
    code = (
        "import sys\nfrom bilevel_cli.commands import report\n"
        "try: report.parser().parse_args(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'pandas', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""Reports: what is read of whole and damaged runs, what is compared, and how it is shown."""

import csv
import fcntl
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import bilevel_run, exit_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import EVAL, TRAIN, measured, run_at
from scipy import stats

from bilevel_cli.commands import report as command
from bilevel_cli.errors import UsageError
from bilevel_cli.report.compare import statistics
from bilevel_cli.report.compare.compare import compare
from bilevel_cli.report.compare.comparison import BEST, TIE, TOO_FEW, Budget, Estimate, Report, Row
from bilevel_cli.report.compare.configurations import configurations, differences
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.read import runs, tables
from bilevel_cli.report.show import cells, papers, terminal, watch


def method_at(root: Path, method: str, finals: Iterable[float], **others: Any) -> None:
    """Runs of a method, one for each final score, seeds from 0."""
    for seed, final in enumerate(finals):
        run_at(
            root / f"{method},seed={seed}",
            (0.1, final / 2, final),
            seed=seed,
            choices={"method": method},
            method={"_target_": f"package.{method.title()}"},
            **others,
        )


def reported(root: Path, **question: Any) -> Report:
    return compare(runs.read([root]), Question(**question))


def by_label(report: Report) -> dict[str, Row]:
    return {row.configuration.label: row for row in report.rows}


def bilevel_report(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    return exit_code("bilevel-report", command.main, monkeypatch, *arguments)


# Reading


@pytest.mark.parametrize(
    ("content", "rows", "reason"),
    [
        (b"step,seconds,loss\n1,0.5,2\n2,1.0,3\n3,1.5,4", 2, "torn"),
        (b"step,seconds,loss\n1,0.5,2\n2,1.0,3\n3,1", 2, "torn"),
        (b"step,seconds,loss\n1,0.5,2\n2,1.0,3\n" + bytes(40), 2, "torn"),
        (b"step,seconds,loss\n1,0.5,2\n\0\0\0\0\n2,1.0,3\n", 2, "damaged"),
        (b"step,seconds,loss\n1,0.5,2\n2,1.0\n3,1.5,4,5\n4,2.0,3\n", 2, "damaged"),
        (b"step,seconds,loss\n1,0.5,2\nx,1.0,3\n3,\xff,4\n4,2,3\n", 2, "damaged"),
        (b'step,seconds,loss\n1,0.5,2\n2,"1.0",3\n\n4,2.0,3\n', 2, "damaged"),
        (b"step,seconds,loss\n2,0.5,2\n1,1.0,3\n2,1.5,4\n", 2, "out of order"),
        (b"time,loss\n1,2\n", 0, "another header"),
        (b"step,\xff\xfe\n1,2\n", 0, "another header"),
        (b"step,loss,loss\n1,2,3\n", 0, "another header"),
        (bytes(4096), 0, "another header"),
        (b"\x89PNG\r\n\x1a\n", 0, "another header"),
        (b"", 0, "empty"),
    ],
)
def test_of_a_damaged_table_the_whole_rows_are_read_and_one_line_says_so(
    content: bytes,
    rows: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "train.csv").write_bytes(content)
    (run,) = runs.read([folder])
    assert len(run.train) == rows
    assert bilevel_report(monkeypatch, folder) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / "train.csv") in line
    assert reason in line


def test_whole_tables_are_read_as_they_are_with_infinite_numbers_as_nan(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "eval.csv").write_text(
        "step,seconds,loss\r\n0,0.0,1e-300\r\n5,1.5,inf\r\n9,2,nan\r\n"
    )
    (run,) = runs.read([folder])
    assert run.warnings == []
    assert run.evals["step"].tolist() == [0, 5, 9]
    assert run.evals["loss"].iloc[0] == 1e-300
    assert run.evals["loss"].isna().tolist() == [False, True, True]


def test_a_header_alone_is_a_table_without_rows() -> None:
    table, wrong = tables.parse(b"step,seconds,loss\n")
    assert wrong is None
    assert (list(table), len(table)) == (["step", "seconds", "loss"], 0)


PIECES = st.sampled_from(
    [
        *(b"step", b"seconds", b"test_accuracy", b"step,seconds,a\n", b"1,2,3\n", b"2,3,4\n"),
        *(b",", b"\n", b"\r\n", b'"', b"'", b"#", b" ", b"\0", b"\xff", b"\xef\xbb\xbf"),
        *(b"nan", b"inf", b"-1", b"0", b"1", b"7", b"0.5", b"1e999", b"1_0"),
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,  # the same bytes on every machine
    suppress_health_check=list(HealthCheck),
)
@given(train=st.lists(PIECES, max_size=20), evals=st.binary(max_size=60) | st.just(None))
def test_no_bytes_of_a_table_end_in_a_traceback(
    train: list[bytes], evals: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if not folder.exists():
        run_at(folder)
    content = b"".join(train)
    (folder / "train.csv").write_bytes(content)
    (folder / "eval.csv").write_bytes(EVAL.encode() + b"\n" + evals if evals else content)
    assert bilevel_report(monkeypatch, folder, "--at", "inner_grads") == 0
    (run,) = runs.read([folder])
    for table in (run.train, run.evals):
        if len(table):
            assert table["step"].is_monotonic_increasing
            assert not np.isinf(table.to_numpy()).any()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"name": "web app"}', b"\xff", b"[" * 9999, b'{"status": 3}']
)
def test_a_run_with_a_damaged_manifest_is_kept_with_status_missing(
    content: bytes, tmp_path: Path
) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "manifest.json").write_bytes(content)
    (run,) = runs.read([folder])
    assert run.status == "missing"
    assert len(run.evals) == 3
    assert str(folder / "manifest.json") in " ".join(run.warnings)


def test_settings_of_a_run_without_a_manifest_are_those_that_hydra_noted(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "manifest.json").unlink()
    (folder / ".hydra" / "config.yaml").write_text("seed: 3\nreplicas: 1\na: {b: '${seed}'}\n")
    (run,) = runs.read([folder])
    assert (run.status, run.settings) == ("missing", {"seed": 3, "a.b": 3})


def test_a_run_is_going_as_long_as_its_lock_is_held_and_killed_after(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", status="running")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [run.status for run in runs.read([folder])] == ["running"]
        (folder / "manifest.json").write_text('{"status": "interrupted"}')  # until it continues
        assert [run.status for run in runs.read([folder])] == ["running"]
        (folder / "manifest.json").unlink()  # while it is built
        assert [run.status for run in runs.read([folder])] == ["running"]
    assert [run.status for run in runs.read([folder])] == ["missing"]
    other = run_at(tmp_path / "other", status="running")
    assert [run.status for run in runs.read([other])] == ["killed"]


def test_where_there_are_no_locks_the_manifest_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for status in ("running", "failed"):
        folder = run_at(tmp_path / status, status=status)
        (folder / "lock").touch()
        assert [run.status for run in runs.read([folder])] == [status]


def test_each_run_is_read_once_however_often_it_is_reached(tmp_path: Path) -> None:
    run_at(tmp_path / "sweep" / "a")
    run_at(tmp_path / "sweep" / "a" / "seed=1")
    (tmp_path / "sweep" / "round").symlink_to(tmp_path / "sweep")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked").symlink_to(tmp_path / "sweep")
    found = runs.read([tmp_path / "sweep", tmp_path / "elsewhere", tmp_path / "sweep" / "a"])
    assert len(found) == 2
    assert [run.name for run in runs.read([tmp_path / "sweep"])] == ["a", "a/seed=1"]
    assert [run.name for run in runs.read([tmp_path / "sweep/a/seed=1"])] == ["seed=1"]


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(UsageError, match=str(folder)):
            runs.read([folder])


def test_a_report_writes_nothing_into_the_folders_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method_at(tmp_path / "sweep", "cg", [0.7, 0.8, 0.9])
    run_at(tmp_path / "sweep" / "going", status="running")

    def state() -> dict[Path, tuple[int, bytes]]:
        files = sorted((tmp_path / "sweep").rglob("*"))
        return {f: (f.stat().st_mtime_ns, f.read_bytes() if f.is_file() else b"") for f in files}

    before = state()
    assert bilevel_report(monkeypatch, tmp_path / "sweep", "--csv", tmp_path / "t.csv") == 0
    assert state() == before


# Configurations


def labels(root: Path, group_by: Sequence[str] | None = None) -> list[str]:
    return [one.label for one in configurations(runs.read([root]), group_by)]


def test_runs_that_differ_by_their_seed_alone_are_one_configuration(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8, 0.9])
    method_at(tmp_path, "iaptt", [0.7, 0.8])
    found = configurations(runs.read([tmp_path]))
    assert [(one.label, len(one.runs)) for one in found] == [("cg", 3), ("iaptt", 2)]
    assert found[0].differing == {"method": "cg"}


def test_what_comes_with_a_method_is_no_column_but_a_difference(tmp_path: Path) -> None:
    for lr in (0.1, 0.02):
        for method, start in (("cg", "cold"), ("iaptt", "learned")):
            run_at(
                tmp_path / f"{method}{lr}",
                choices={"method": method, "start": start},
                method={"_target_": f"p.{method}", "window": 3 if method == "iaptt" else None},
                start={"_target_": f"p.{start}"},
                optimizer={"lr": lr},
            )
    found = configurations(runs.read([tmp_path]))
    assert [one.label for one in found] == [
        "cg, lr 0.02",
        "cg, lr 0.1",
        *["iaptt, lr 0.02"],
        "iaptt, lr 0.1",
    ]
    assert found[0].differing == {"method": "cg", "optimizer.lr": 0.02}
    assert list(differences(found)) == ["method", "start", "method.window", "optimizer.lr"]


def test_settings_that_one_configuration_has_not_are_left_out_of_its_label(tmp_path: Path) -> None:
    run_at(tmp_path / "a", choices={"method": "cg"}, method={"steps": 5})
    run_at(tmp_path / "b", choices={"method": "cg"}, method={"steps": 10})
    run_at(tmp_path / "c", choices={"method": "none"})
    assert labels(tmp_path) == ["cg, steps 5", "cg, steps 10", "none"]


def test_classes_name_what_was_chosen_where_the_choice_is_unknown(tmp_path: Path) -> None:
    run_at(tmp_path / "a", method={"_target_": "bilevel_cli.methods.iaptt.Iaptt", "k": 1})
    run_at(tmp_path / "b", method={"_target_": "bilevel_cli.methods.reverse.Reverse"})
    assert labels(tmp_path) == ["Iaptt", "Reverse"]


def test_a_group_from_which_one_run_chose_nothing_is_a_choice_still(tmp_path: Path) -> None:
    run_at(tmp_path / "a", choices={"data": "digits"}, data={"_target_": "p.Digits", "size": 3})
    run_at(tmp_path / "b", choices={"data": "mnist"}, data={"_target_": "p.Mnist", "size": 3})
    run_at(tmp_path / "c", choices={"task": "toy"}, data=None)
    assert labels(tmp_path) == ["digits", "mnist", "toy"]


def test_configurations_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for lr in (0.5, 10, 9, 1e-3):
        run_at(tmp_path / str(lr), solver={"lr": lr})
    assert labels(tmp_path) == ["lr 0.001", "lr 0.5", "lr 9", "lr 10"]


def test_ends_of_names_are_as_long_as_it_takes_to_tell_them_apart(tmp_path: Path) -> None:
    for one, two in ((1, 1), (1, 2), (2, 1)):
        run_at(tmp_path / f"{one}{two}", solver={"lr": one}, optimizer={"lr": two})
    assert labels(tmp_path)[0] == "solver.lr 1, optimizer.lr 1"


def test_a_seed_and_suggestions_are_no_options(tmp_path: Path) -> None:
    run_at(tmp_path / "a", seed=0, suggest={"inner_lr": 1})
    run_at(tmp_path / "b", seed=1, suggest={"inner_lr": 2})
    assert len(labels(tmp_path)) == 1


def test_options_that_are_named_alone_distinguish(tmp_path: Path) -> None:
    for seed, (method, lr) in enumerate([("cg", 1), ("cg", 2), ("iaptt", 1), ("iaptt", 2)]):
        run_at(tmp_path / str(seed), seed=seed, choices={"method": method}, solver={"lr": lr})
    assert labels(tmp_path, ["method"]) == ["cg", "iaptt"]
    assert labels(tmp_path, ["lr"]) == ["lr 1", "lr 2"]
    with pytest.raises(UsageError, match="Did you mean 'method'"):
        labels(tmp_path, ["metod"])


def test_replicas_share_the_choices_of_the_folder_above_them(tmp_path: Path) -> None:
    run_at(tmp_path / "run" / "seed=0", choices={"method": "iaptt"})
    (tmp_path / "run" / "seed=0" / ".hydra" / "hydra.yaml").rename(tmp_path / "hydra.yaml")
    (tmp_path / "run" / ".hydra").mkdir()
    (tmp_path / "hydra.yaml").rename(tmp_path / "run" / ".hydra" / "hydra.yaml")
    (run,) = runs.read([tmp_path / "run"])
    assert run.choices == {"method": "iaptt"}


def test_of_a_run_that_was_repeated_the_last_counts_however_it_ended(tmp_path: Path) -> None:
    run_at(tmp_path / "b", (0.1, 0.9))
    run_at(tmp_path / "a", (0.1, 0.5), manifest={"started": "2026-02-01", "status": "diverged"})
    report = reported(tmp_path)
    assert [run.name for one in report.configurations for run in one.runs] == ["a"]
    assert any("run again later" in line for line in report.statements)


# Statistics


def test_the_interval_of_a_mean_is_student_s() -> None:
    values = [0.91, 0.95, 0.93, 0.99]
    found = statistics.student(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.945, low, high), rel=1e-12)
    # By hand, of 1, 2, 3: deviation 1, t of 2 degrees of freedom 4.302653.
    by_hand = statistics.student([1, 2, 3])
    assert by_hand.high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_a_value_and_no_interval() -> None:
    for estimate in (statistics.student, statistics.robust):
        found = estimate([0.5])
        assert (found.value, found.n) == (0.5, 1)
        assert math.isnan(found.low)
        assert math.isnan(estimate([]).value)


@pytest.mark.parametrize("n", range(1, 13))
def test_the_interquartile_mean_is_scipy_s_trimmed_one(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    found = statistics.interquartile_mean(values)
    assert found == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_the_bootstrap_interval_is_scipy_s_and_the_same_at_every_call() -> None:
    values = np.random.default_rng(0).normal(size=20)
    found = statistics.robust(list(values))
    other = stats.bootstrap(
        (values,), lambda v, axis: stats.trim_mean(v, 0.25, axis=axis), method="percentile", rng=1
    ).confidence_interval
    # Both draw 10 000 resamples: their quantiles differ by a few hundredths of the width.
    width = other.high - other.low
    assert found.low == pytest.approx(other.low, abs=0.05 * width)
    assert found.high == pytest.approx(other.high, abs=0.05 * width)
    assert statistics.robust(list(values)) == found


def test_seeds_in_common_are_compared_in_pairs() -> None:
    # Seeds differ by 1, methods by 0.1 in each: only pairs show it.
    one = {seed: seed + 0.1 for seed in range(6)}
    other = {seed: float(seed) for seed in range(6)}
    assert statistics.difference(one, other) == pytest.approx((0.1, 0.1))
    apart = {seed + 6: value for seed, value in other.items()}
    interval = statistics.difference(one, apart)
    assert interval is not None
    assert interval[0] < -1 < 1 < interval[1]


def test_fewer_than_three_seeds_in_common_show_no_difference() -> None:
    three = {0: 1.0, 1: 1.0, 2: 1.0}
    assert statistics.difference(three, {0: 0.0, 1: 0.0, 3: 0.0, 4: 0.0}) is None
    assert statistics.difference(three, {0: 0.0, 1: 0.0}) is None
    assert statistics.difference(three, {0: 0.0, 1: 0.0, 2: 0.0}) == (1.0, 1.0)


@pytest.mark.parametrize("seeds", [3, 6])
def test_few_seeds_call_equal_methods_different_as_often_as_is_said(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    pairs = np.random.default_rng(0).normal(size=(400, 2, seeds))
    found = [statistics.difference(dict(enumerate(a)), dict(enumerate(b))) for a, b in pairs]
    wrong = sum(not interval[0] <= 0 <= interval[1] for interval in found if interval)
    rate = statistics.EQUAL_CALLED_DIFFERENT[seeds] / 100
    assert abs(wrong / 400 - rate) < 3 * math.sqrt(rate * (1 - rate) / 400)


def test_few_seeds_are_said_to_be_few(tmp_path: Path) -> None:
    method_at(tmp_path, "best", [0.90, 0.92, 0.94])
    method_at(tmp_path, "worse", [0.80, 0.82, 0.84])
    assert any("with 3, about 26 of 100" in line for line in reported(tmp_path).statements)


# Comparison


def test_the_best_row_comes_first_and_its_ties_are_marked(tmp_path: Path) -> None:
    method_at(tmp_path, "best", [0.90, 0.92, 0.94, 0.96])
    method_at(tmp_path, "tied", [0.95, 0.90, 0.95, 0.90])
    method_at(tmp_path, "worse", [0.80, 0.82, 0.84, 0.86])
    method_at(tmp_path, "short", [0.80, 0.82])
    marks = {row.configuration.label: row.mark for row in reported(tmp_path).rows}
    assert list(marks.items())[:2] == [("best", BEST), ("tied", TIE)]
    assert (marks["worse"], marks["short"]) == ("", TOO_FEW)
    lowest = reported(tmp_path, higher=False).rows[0]
    assert lowest.configuration.label == "short"


def test_runs_are_compared_at_the_most_that_all_reached(tmp_path: Path) -> None:
    method_at(tmp_path, "long", [0.9, 0.9, 0.9])
    for seed in range(3):
        run_at(tmp_path / f"s{seed}", (0.2, 0.3), seed, every=12, choices={"method": "short"})
    report = reported(tmp_path)
    assert report.budget == Budget("step", 12)
    rows = by_label(report)
    assert rows["long"].estimate.value == pytest.approx(0.45)  # of step 10, the last within 12
    assert rows["long"].costs == {
        **{"step": 10, "seconds": 20, "inner_grads": 1000, "hvps": 10, "peak_memory_mb": 310}
    }
    assert rows["short"].estimate.value == pytest.approx(0.3)
    assert by_label(reported(tmp_path, at="end"))["long"].estimate.value == pytest.approx(0.9)


def test_equal_gradients_are_not_equal_steps(tmp_path: Path) -> None:
    run_at(tmp_path / "cheap", (0.1, 0.2, 0.3), grads=50, choices={"method": "cheap"})
    run_at(tmp_path / "dear", (0.1, 0.6, 0.9), grads=100, choices={"method": "dear"})
    report = reported(tmp_path, at="inner_grads")
    assert report.budget == Budget("inner_grads", 1000)
    values = {row.configuration.label: row.estimate.value for row in report.rows}
    assert values == {"cheap": 0.3, "dear": 0.6}
    assert by_label(reported(tmp_path, at="inner_grads=999"))["dear"].estimate.value == 0.1


def test_a_run_that_ended_before_a_given_budget_stands_with_its_end(tmp_path: Path) -> None:
    run_at(tmp_path / "short", (0.1, 0.2), choices={"method": "short"})
    run_at(tmp_path / "long", (0.1, 0.2, 0.3), choices={"method": "long"})
    report = reported(tmp_path, at="seconds=40")
    assert {row.estimate.value for row in report.rows} == {0.2, 0.3}
    assert "Ended before that budget, and stand with their end: short." in report.statements


def test_costs_between_rows_of_train_csv_grow_with_the_steps(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", (0.1, 0.5, 0.9))
    (folder / "train.csv").write_text(f"{TRAIN}\n8,16,1,800,8,310\n20,40,1,2000,20,320\n")
    (row,) = reported(tmp_path, at="steps=10").rows
    assert row.costs["inner_grads"] == 1000
    assert row.costs["peak_memory_mb"] == 320  # of the next row: it may have been that much


def test_within_less_memory_than_a_run_takes_it_has_no_number(tmp_path: Path) -> None:
    run_at(tmp_path / "small", (0.1, 0.2, 0.3), memory=200, choices={"method": "small"})
    run_at(tmp_path / "large", (0.1, 0.6, 0.9), memory=300, choices={"method": "large"})
    rows = by_label(reported(tmp_path, at="peak_memory_mb=215"))
    assert rows["small"].estimate.value == 0.2  # it takes 220 MB at the last evaluation
    assert rows["large"].counts == {"too large": 1}
    assert reported(tmp_path, at="peak_memory_mb").budget == Budget("peak_memory_mb", 320)


def test_no_run_is_dropped_without_a_word(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8, 0.9])
    for number, status in enumerate(["diverged", "diverged", "oom", "failed", "interrupted"]):
        run_at(tmp_path / status / str(number), (0.1, 0.9), number, status, choices={"method": "x"})
    run_at(tmp_path / "r", (0.1,), 9, "running", choices={"method": "x"})
    report = reported(tmp_path)
    row = by_label(report)["x"]
    counts = {"diverged": 2, "oom": 1, "failed": 1, "interrupted": 1, "killed": 1}
    assert row.counts == counts
    assert report.budget.limit == 10  # the farthest that an unfinished run of x came
    assert list(row.values) == ["interrupted/4"]
    text = terminal.text(report, 200)
    assert "2 of 6 diverged" in text
    assert "9 runs in 2 configurations, 4 in the means; 2 diverged; 1 failed; 1 interrupted" in text


def test_a_configuration_without_a_number_is_still_a_row(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8])
    for seed in (0, 1):
        run_at(tmp_path / str(seed), (0.1, 0.9), seed, "failed", choices={"method": "broken"})
    report = reported(tmp_path)
    assert [row.configuration.label for row in report.rows] == ["cg", "broken"]
    assert report.rows[-1].estimate.n == 0
    assert report.budget.limit == 20  # the failed runs do not lower it
    assert "failed" in terminal.text(report, 100).splitlines()[-1]


def test_where_nothing_was_evaluated_the_statuses_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_at(tmp_path / "run", status="failed")
    for name in runs.TABLES:
        (folder / name).unlink()
    assert bilevel_report(monkeypatch, folder, "--metric", "test_accuracy") == 0
    assert bilevel_report(monkeypatch, folder) == 0
    assert "nothing to compare" in capsys.readouterr().out


def test_the_best_row_by_a_validation_column_is_selected(tmp_path: Path) -> None:
    run_at(tmp_path / "run", (0.1, 0.8, 0.3), losses=(0.5, 0.7))
    (row,) = reported(tmp_path, validation="outer_loss").rows
    assert (row.estimate.value, row.costs["step"]) == (0.8, 10)


@pytest.mark.parametrize("name", ["test_accuracy", "test_loss"])
def test_selection_by_test_scores_is_refused(name: str, tmp_path: Path) -> None:
    run_at(tmp_path / "run")
    with pytest.raises(UsageError, match="validation column"):
        reported(tmp_path, validation=name)


@pytest.mark.parametrize(
    ("entry", "other", "said"),
    [
        ("data_sha256", "another", "UNFAIR: the data differ"),
        ("git_commit", "f" * 40 + "-dirty", "ffffffffffff-dirty"),
        ("threads", 8, "threads (1 in 3, 8 in 3 runs)"),
        ("device", "cuda:0", "device"),
        ("gpu", "H200", "gpu"),
        ("versions", {"torch": "2.11.0"}, "torch"),
    ],
)
def test_what_makes_a_comparison_unfair_is_said(
    entry: str, other: Any, said: str, tmp_path: Path
) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8, 0.9])
    method_at(tmp_path / "a", "iaptt", [0.7, 0.8, 0.9])
    assert reported(tmp_path).warnings == []
    method_at(tmp_path / "b", "iaptt", [0.7, 0.8, 0.9], manifest={entry: other, "started": "2027"})
    assert any(said in line for line in reported(tmp_path).warnings)


def test_seeds_with_data_of_their_own_are_no_unfairness(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8])
    assert len({run.manifest["data_sha256"] for run in runs.read([tmp_path])}) == 2
    assert reported(tmp_path).warnings == []


def test_scores_on_their_way_to_infinity_are_compared_without_a_warning(tmp_path: Path) -> None:
    method_at(tmp_path, "large", [1e308, -1e308, 1e308])
    method_at(tmp_path, "small", [1e-320, 0, 1e-320])
    report = reported(tmp_path)
    assert report.rows[-1].mark == TIE
    assert terminal.text(report, 80)


def test_directions_are_those_that_the_task_wrote(tmp_path: Path) -> None:
    run_at(tmp_path / "run")
    assert reported(tmp_path).higher
    assert not reported(tmp_path, metric="outer_loss").higher
    assert not reported(tmp_path, higher=False).higher


# Output


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
        r"$\mathbf{0.8 \pm 0.2}$ & 3 & 20 & " in table
    )
    assert r"tied & \underline{$0.8 \pm 0.3$}" in table
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1


def test_markdown_has_as_many_cells_in_every_row(tmp_path: Path) -> None:
    method_at(tmp_path, "a|b", [0.7, 0.8])
    method_at(tmp_path, "c", [0.7, 0.6])
    lines = papers.markdown(reported(tmp_path)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "**0.8 +- 0.6**" in table[2]


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
    assert "0.8 +- 0.6" in text
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
        "try: report._parser().parse_args(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'pandas', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""Which runs are compared, at what cost, and what is said of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import TRAIN_HEADER, bilevel_report, by_label, method_at, reported, run_at
from scipy import stats

from bilevel_cli.errors import UsageError
from bilevel_cli.report.compare import statistics
from bilevel_cli.report.compare.comparison import BEST, TIE, TOO_FEW, Budget
from bilevel_cli.report.compare.configurations import configurations, differences
from bilevel_cli.report.read import runs
from bilevel_cli.report.show import terminal

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


def test_the_choices_in_a_manifest_name_a_run_whatever_class_or_note_of_hydra_is_there(
    tmp_path: Path,
) -> None:
    for name in ("cg", "neumann"):
        folder = run_at(
            tmp_path / name,
            choices={"method": "renamed"},
            manifest={"choices": {"method": name, "method/linear_solver": name}},
            method={"_target_": "p.Implicit", "linear_solver": {"_target_": f"p.Class{name}"}},
        )
    assert labels(tmp_path) == ["cg", "neumann"]
    (folder / ".hydra" / "hydra.yaml").unlink()
    assert labels(tmp_path) == ["cg", "neumann"]
    table = differences(configurations(runs.read([tmp_path])))
    assert table == {"method": ["cg", "neumann"], "method/linear_solver": ["cg", "neumann"]}


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
    (folder / "train.csv").write_text(f"{TRAIN_HEADER}\n8,16,1,800,8,310\n20,40,1,2000,20,320\n")
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
    for name in ("train.csv", "eval.csv"):
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

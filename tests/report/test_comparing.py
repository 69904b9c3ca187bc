"""Which runs are compared, at what cost, and what is said of them."""

import fcntl
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import TRAIN_HEADER, bilevel_report, by_label, method_at, reported, run_at
from scipy import stats

from bilevel_cli.errors import UsageError
from bilevel_cli.report.compare.comparison import BEST, BROKE, LEVEL, UNCOMPARED, WORSE, Budget
from bilevel_cli.report.compare.configurations import configurations, differences
from bilevel_cli.report.read import runs
from bilevel_cli.report.show import cells, terminal

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


# Standings


def marks(root: Path, **question: Any) -> dict[str, str]:
    """The words of each row, in their order."""
    return {row.configuration.label: cells.mark(row) for row in reported(root, **question).rows}


def test_each_row_says_how_it_stands_to_the_best(tmp_path: Path) -> None:
    method_at(tmp_path, "best", [0.60, 0.62, 0.64, 0.66])
    method_at(tmp_path, "near", [0.65, 0.60, 0.65, 0.60])
    method_at(tmp_path, "worse", [0.50, 0.515, 0.54, 0.56])
    method_at(tmp_path, "short", [0.99])
    said = marks(tmp_path)
    assert list(said.items())[:2] == [("best", "best"), ("near", "level")]
    assert list(said)[2:] == ["worse", "short"]  # of one seed, whatever it reached
    assert said["short"] == "not compared: 1 seed"
    # By hand: differences 0.10, 0.105, 0.10, 0.10; deviation 0.0025; three pairs share 5 %, of
    # which t of 3 degrees of freedom is 4.857.
    apart, half = 0.10125, 4.857 * 0.0025 / 2
    assert said["worse"] == f"worse by {apart:.3f} [{apart - half:.3f}, {apart + half:.3f}]"


def test_configurations_of_one_seed_each_are_in_order_and_not_compared(tmp_path: Path) -> None:
    method_at(tmp_path, "low", [0.5])
    method_at(tmp_path, "high", [0.6])
    assert marks(tmp_path) == {"high": "best", "low": "not compared: 1 seed"}
    assert list(marks(tmp_path, higher=False)) == ["low", "high"]


def test_losses_are_worse_by_what_they_are_higher(tmp_path: Path) -> None:
    method_at(tmp_path, "low", [0.10, 0.11, 0.12])
    method_at(tmp_path, "high", [0.30, 0.311, 0.32])
    low, high = reported(tmp_path, higher=False).rows
    assert (low.standing.kind, high.standing.kind) == (BEST, WORSE)
    assert high.standing.behind is not None
    by = high.standing.behind.by
    assert by.value == pytest.approx(0.2, abs=1e-3)
    assert 0 < by.low < by.value < by.high


def test_a_configuration_that_lost_runs_is_not_best_by_its_survivors(tmp_path: Path) -> None:
    method_at(tmp_path, "steady", [0.7, 0.8, 0.75])
    for seed, status in enumerate(["completed", "completed", "completed", *["diverged"] * 3]):
        run_at(tmp_path / f"w{seed}", (0.1, 0.9), seed, status, choices={"method": "wild"})
    for seed, status in enumerate(["completed", "completed", "failed"]):
        run_at(tmp_path / f"f{seed}", (0.1, 0.8), seed, status, choices={"method": "frail"})
    assert marks(tmp_path) == {
        "steady": "best",
        "frail": "1 of 3 failed",
        "wild": "3 of 6 diverged",
    }
    text = terminal.text(reported(tmp_path), 100)
    assert text.startswith("steady is best, since it alone lost no run: test accuracy")
    assert text.count("3 of 6 diverged") == 1


def test_where_all_lost_runs_none_is_best(tmp_path: Path) -> None:
    for seed, status in enumerate(["completed", "completed", "diverged"]):
        run_at(tmp_path / f"a{seed}", (0.1, 0.9), seed, status, choices={"method": "a"})
    for seed, status in enumerate(["completed", "diverged", "diverged"]):
        run_at(tmp_path / f"b{seed}", (0.1, 0.95), seed, status, choices={"method": "b"})
    report = reported(tmp_path)
    assert [row.standing.kind for row in report.rows] == [BROKE, BROKE]
    assert "No configuration is best" in terminal.text(report, 200)


def test_ten_seeds_each_with_two_in_common_are_compared(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for method, first, mean in (("good", 0, 0.7), ("poor", 8, 0.65)):
        for seed in range(first, first + 10):
            final = mean + 0.02 * random.standard_normal()
            run_at(tmp_path / f"{method}{seed}", (0.1, final), seed, choices={"method": method})
    report = reported(tmp_path)
    good, poor = ([row.values[name] for name in row.values] for row in report.rows)
    behind = report.rows[1].standing.behind
    assert behind is not None
    twin = stats.ttest_ind(good, poor, equal_var=False)
    assert behind.p == pytest.approx(twin.pvalue, rel=1e-9)
    ends = twin.confidence_interval(0.95)
    assert (behind.by.low, behind.by.high) == pytest.approx((ends.low, ends.high))
    assert report.rows[1].standing.kind == WORSE
    assert "Welch" in "".join(report.statements)


def test_what_has_not_come_to_the_others_budget_has_just_begun(tmp_path: Path) -> None:
    method_at(tmp_path, "done", [0.7, 0.8, 0.75])
    with (tmp_path / "held").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for method, rows in (("first", ()), ("early", (0.1,)), ("half", (0.1, 0.2))):
            folder = run_at(tmp_path / method, rows, status="running", choices={"method": method})
            os.link(tmp_path / "held", folder / "lock")
        report = reported(tmp_path)
        said = marks(tmp_path)
    assert report.budget.limit == 20  # they do not lower it
    assert said == {
        "done": "best",
        "early": "not compared: just begun",
        "first": "not compared: just begun",
        "half": "not compared: 50 % done",
    }
    assert "the most that all with completed runs reached" in report.statements[0]


def test_few_seeds_are_said_to_be_few_with_what_they_can_tell(tmp_path: Path) -> None:
    method_at(tmp_path, "best", [0.90, 0.92, 0.94])
    method_at(tmp_path, "worse", [0.80, 0.82, 0.845])
    # t of 2 and of 9 degrees of freedom, over the root of 3 and of 10.
    said = f"with 3, a difference is shown if it is {4.3027 / math.sqrt(3):.2g} or more"
    later = f"with 10, if it is {2.2622 / math.sqrt(10):.2g}."
    assert any(said in line and later in line for line in reported(tmp_path).statements)
    method_at(tmp_path / "more", "best", [0.90, 0.92, 0.94, 0.9, 0.92])
    method_at(tmp_path / "more", "worse", [0.80, 0.82, 0.845, 0.81, 0.8])
    assert not any("few seeds" in line for line in reported(tmp_path / "more").statements)


def test_one_configuration_alone_is_not_compared(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8])
    report = reported(tmp_path)
    assert report.rows[0].standing.kind == UNCOMPARED
    assert "compared" not in terminal.text(report, 200)


# Comparison


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
    assert "4 of 6 broke: 2 diverged, 1 failed, 1 oom" in text
    assert "1 of 6 interrupted, 1 of 6 killed" in text
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
    assert report.rows[-1].standing.kind == LEVEL
    assert terminal.text(report, 80)


def test_directions_are_those_that_the_task_wrote(tmp_path: Path) -> None:
    run_at(tmp_path / "run")
    assert reported(tmp_path).higher
    assert not reported(tmp_path, metric="outer_loss").higher
    assert not reported(tmp_path, higher=False).higher

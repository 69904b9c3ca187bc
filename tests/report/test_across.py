"""Runs of several tasks: each compared by itself, then all together; and a row for each run."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from pages import PLOTLY, bilevel_report, method_at, reported, run_at
from several_tasks import STRENGTH, TASKS, four_by_six, task_at

from bilevel_cli.errors import UsageError
from bilevel_cli.report import outputs
from bilevel_cli.report.across import exported, printed, told
from bilevel_cli.report.across.apart import compared
from bilevel_cli.report.across.overall import Overall, overall
from bilevel_cli.report.across.reached import reached, target_of
from bilevel_cli.report.compare.comparison import BEST, BROKE, Report
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.page import numbers, page
from bilevel_cli.report.read.runs import Run, read
from bilevel_cli.report.show import plots

Rows = list[dict[str, str]]


def report_of(found: Path | list[Run], target: str | None = None, **question: Any) -> Report:
    """The report of some runs, or of those below a folder."""
    tasks = question.pop("tasks", None)
    asked = None if target is None else target_of(target)
    runs = read([found]) if isinstance(found, Path) else found
    return compared(runs, Question(**question), tasks, asked)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("sweep")
    four_by_six(root)
    return read([root])


@pytest.fixture(scope="module")
def report(sweep: list[Run]) -> Report:
    return report_of(sweep)


@pytest.fixture(scope="module")
def found(report: Report) -> Overall:
    standings = overall(report)
    assert standings is not None
    return standings


# Task by task


def test_runs_of_one_task_are_compared_as_ever(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8, 0.9])
    method_at(tmp_path, "iaptt", [0.8, 0.9, 0.95])
    one, other = report_of(tmp_path), reported(tmp_path)
    assert one.parts == {}
    assert one.statements == other.statements
    assert [row.estimate for row in one.rows] == [row.estimate for row in other.rows]


def test_each_task_has_its_own_metric_direction_and_best(report: Report) -> None:
    assert list(report.parts) == sorted(TASKS)
    for task, (metric, _, way) in TASKS.items():
        part = report.parts[task]
        assert (part.metric, part.higher) == (metric, way > 0)
        assert part.rows[0].configuration.label in ("iaptt", "reverse")
        assert part.rows[0].standing.kind == BEST
    # The rows of the whole are those of the tasks, and have their marks.
    kinds = [row.standing.kind for part in report.parts.values() for row in part.rows]
    assert [row.standing.kind for row in report.rows] == kinds
    assert kinds.count(BEST) == 4
    assert len(report.configurations) == 23
    assert report.warnings == []  # other tasks have other data, which is no unfairness


def test_what_names_a_task_is_no_part_of_a_label(report: Report) -> None:
    labels = {one.label for part in report.parts.values() for one in part.configurations}
    assert labels == set(STRENGTH)


def test_data_make_a_task_too_and_so_does_a_setting_that_is_named(tmp_path: Path) -> None:
    for data in ("digits", "mnist"):
        for share in (0.2, 0.4):
            for method in ("cg", "iaptt"):
                run_at(
                    tmp_path / f"{data}{share}{method}",
                    choices={"method": method, "task": "reweight", "data": data},
                    task={"noise": {"share": share}},
                )
    assert list(report_of(tmp_path).parts) == ["digits", "mnist"]
    four = report_of(tmp_path, tasks=["data", "share"])
    assert list(four.parts) == [f"{d}, share {s}" for d in ("digits", "mnist") for s in (0.2, 0.4)]
    (part, *_) = four.parts.values()
    assert [one.label for one in part.configurations] == ["cg", "iaptt"]
    with pytest.raises(UsageError, match="--tasks needs options of the runs"):
        report_of(tmp_path, tasks=["shore"])


def test_options_that_are_named_distinguish_within_each_task(tmp_path: Path) -> None:
    for task in ("a", "b"):
        for method in ("cg", "iaptt"):
            for lr in (1, 2):
                run_at(
                    tmp_path / f"{task}{method}{lr}",
                    seed=lr,
                    choices={"method": method, "task": task},
                    optimizer={"lr": lr, **({"momentum": lr} if task == "b" else {})},
                )
    by = report_of(tmp_path, group_by=["method"])
    assert [one.label for one in by.parts["a"].configurations] == ["cg", "iaptt"]
    assert len(by.configurations) == 4
    also = report_of(tmp_path, group_by=["task", "method", "momentum"])
    assert [one.label for one in also.parts["a"].configurations] == ["cg", "iaptt"]
    assert len(also.parts["b"].configurations) == 4


def test_a_step_size_that_is_swept_in_one_task_alone_is_told_apart_there(tmp_path: Path) -> None:
    for task, rates in (("a", (1,)), ("b", (1, 2))):
        for method in ("cg", "iaptt"):
            for lr in rates:
                run_at(
                    tmp_path / f"{task}{method}{lr}",
                    choices={"method": method, "task": task},
                    optimizer={"lr": lr},
                )
    standings = overall(report_of(tmp_path))
    assert standings is not None
    assert {one.label: standings.lacks(one) for one in standings.competitors} == {
        **{"cg, lr 1": [], "iaptt, lr 1": []},
        **{"cg, lr 2": ["a"], "iaptt, lr 2": ["a"]},
    }


def test_a_task_without_the_metric_is_left_out_with_a_word(sweep: list[Run]) -> None:
    two = report_of(sweep, metric="test_accuracy")
    assert list(two.parts) == ["meta", "reweight"]
    assert "hpo: no run has test_accuracy; this task is left out." in two.warnings
    one = report_of(sweep, metric="test_loss")
    assert one.parts == {}
    assert len(one.rows) == 6
    assert len(one.warnings) == 3
    with pytest.raises(UsageError, match="--metric needs a column"):
        report_of(sweep, metric="accuracy")


def test_a_run_that_lost_its_notes_belongs_to_the_only_task_or_to_none(tmp_path: Path) -> None:
    task_at(tmp_path, "a", "cg", [0.5, 0.6])
    lost = run_at(tmp_path / "lost")
    for name in ("manifest.json", ".hydra/hydra.yaml"):
        (lost / name).unlink()
    assert report_of(tmp_path).parts == {}
    task_at(tmp_path, "b", "cg", [0.5, 0.6])
    two = report_of(tmp_path)
    assert list(two.parts) == ["a", "b"]
    assert any("lost: of which task is unknown" in line for line in two.warnings)


# All tasks together


def test_mean_ranks_are_those_of_the_tables_of_the_tasks(report: Report, found: Overall) -> None:
    labels = [one.label for one in found.ranked]
    assert set(labels) == set(STRENGTH) - {"cg"}
    for one in found.ranked:
        ranks = []
        for part in report.parts.values():
            order = [r.configuration.label for r in part.rows if r.configuration.label in labels]
            ranks.append(order.index(one.label) + 1)
        assert one.rank == pytest.approx(sum(ranks) / 4)
    assert labels[0] in ("iaptt", "reverse")


def test_a_configuration_that_lacks_a_task_is_named_and_has_no_rank(
    report: Report, found: Overall
) -> None:
    last = found.competitors[-1]
    assert last.label == "cg"
    assert math.isnan(last.rank)
    assert found.lacks(last) == ["ridge"]
    assert any(line.startswith("cg: no run on ridge") for line in told.sentences(report, found))
    # In pairs it is compared on the three tasks that it has.
    pair = found.pairs["cg", "none"]
    assert (pair.won, pair.level, pair.lost) == (3, 0, 0)


def test_runs_that_diverged_count_as_the_worst(report: Report, found: Overall) -> None:
    darts = next(one for one in found.competitors if one.label == "darts")
    assert (darts.failed, darts.runs) == (2, 20)
    assert (
        darts.ranks["hpo"] == 5
    )  # after none, which has no run that failed, of five that are ranked
    assert report.parts["hpo"].rows[-1].standing.kind == BROKE
    # Of 5 x 5 pairs on each of four tasks, the two lose all of theirs against any.
    assert found.pairs["darts", "none"].probability == pytest.approx((3 + 0.6) / 4)
    assert found.pairs["none", "darts"].probability == pytest.approx(0.4 / 4)


def test_normalised_scores_are_parts_of_the_way_that_was_made_up(found: Overall) -> None:
    best = max(one.mean.value for one in found.ranked)
    for one in found.ranked:
        if one.label != "darts":  # two of its runs diverged
            # Seeds move a method by 0.05 to 0.06 of the way, and 20 of them its mean by a quarter.
            assert one.mean.value == pytest.approx(STRENGTH[one.label], abs=0.06)
            assert one.mean.low < one.mean.value < one.mean.high
    assert 0.95 < best <= 1
    assert all(scale.from_start for scale in found.scales.values())


def test_the_headline_names_the_best_and_what_is_level_with_it(
    found: Overall, report: Report
) -> None:
    line = told.headline(report)
    first, second = (one.label for one in found.ranked[:2])
    assert line.startswith(f"{first} leads over 4 tasks: mean rank 1.00, first on 4 of 4.")
    assert line.endswith(f"{second} and neumann are level with it.")
    assert found.verdict is not None
    assert f"{found.verdict.critical:.2f}" in line
    assert found.verdict.p < 0.05


def test_one_configuration_or_one_task_with_a_number_has_no_ranks(tmp_path: Path) -> None:
    task_at(tmp_path, "a", "cg", [0.5, 0.6])
    task_at(tmp_path, "b", "cg", [0.5, 0.6], status={0: "diverged", 1: "diverged"})
    one = report_of(tmp_path)
    assert overall(one) is None
    assert "Fewer than two tasks" in printed.text(one, 80)
    task_at(tmp_path, "c", "cg", [0.5, 0.6])
    assert "Only cg has runs of all 2 tasks" in printed.text(report_of(tmp_path), 80)


# What is shown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(report: Report, width: int) -> None:
    text = printed.text(report, width)
    assert max(map(len, text.splitlines())) <= width
    for task in TASKS:
        assert f"\n{task}\n---" in text
    assert "All 4 tasks\n" in text


def test_what_all_tasks_say_is_said_once(report: Report) -> None:
    text = printed.text(report, 1000)
    for line in report.statements:
        assert text.count(line) == 1


def test_markdown_has_a_table_for_each_task_and_two_for_all(report: Report) -> None:
    lines = printed.markdown(report).splitlines()
    assert [line for line in lines if line.startswith("###")] == [
        *(f"### {task}" for task in sorted(TASKS)),
        "### All 4 tasks",
    ]
    tables = [line for line in lines if line.startswith("| :---")]
    assert len(tables) == 6
    assert any(line.startswith("| iaptt |") for line in lines[lines.index("### All 4 tasks") :])


def rows_of(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_for_each_configuration_of_each_task(report: Report, tmp_path: Path) -> None:
    exported.write_csv(report, tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    assert len(rows) == 23
    assert {row["method"] for row in rows} == set(STRENGTH)
    best = next(row for row in rows if row["task"] == "hpo" and row["mark"] == "best")
    assert (best["metric"], best["higher_is_better"], best["n"]) == ("test_loss", "no", "5")
    assert float(best["value"]) == report.parts["hpo"].rows[0].estimate.value
    assert best["rank"] == "1.0"
    darts = next(row for row in rows if (row["task"], row["method"]) == ("hpo", "darts"))
    assert darts["diverged"] == "2"


def test_latex_has_a_column_for_each_task(report: Report) -> None:
    table = exported.latex(report)
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert rows[0] == r"configuration & hpo & meta & reweight & ridge & rank \\"
    assert {line.count("&") for line in rows} == {5}
    assert table.count(r"\mathbf") == 4
    assert rows[-1].startswith("cg &")
    assert rows[-1].endswith(r"& -- & - \\")


def test_the_page_has_all_tasks_and_every_task(report: Report) -> None:
    text = page.html(report, PLOTLY)
    assert 'id="across"' in text
    assert "All 4 tasks" in text
    assert "critical difference" in text
    assert text.count("<polyline") == 5  # a profile for each of those that have all tasks
    assert f"<h1>{told.headline(report)}".split(" over")[0] in text


def test_each_task_is_drawn_with_its_own_score(report: Report) -> None:
    data = numbers.data(report)
    assert data["metric"] == ""
    assert dict(zip(data["panels"], data["own"], strict=True)) == {
        t: m for t, (m, *_) in TASKS.items()
    }
    assert all(data["own"][one["panel"]] in one["means"] for one in data["series"])
    assert all(one.curves for one in plots.traced(report)[1])


def test_ranks_and_profiles_are_drawn_as_the_same_bytes_each_time(
    report: Report, tmp_path: Path
) -> None:
    for name in ("a.svg", "b.svg"):
        outputs.WRITERS["profile"](report, tmp_path / name)
    one, other = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == other
    assert len(one) > 5000


def test_profiles_of_one_task_are_refused(tmp_path: Path) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8])
    with pytest.raises(UsageError, match="two configurations that have runs of all tasks"):
        outputs.WRITERS["profile"](report_of(tmp_path), tmp_path / "p.pdf")


# Targets


def test_a_target_is_reached_at_the_first_evaluation_as_good(tmp_path: Path) -> None:
    for seed, scores in enumerate([(0.1, 0.9, 0.2), (0.1, 0.2, 0.95), (0.1, 0.2, 0.3)]):
        run_at(tmp_path / str(seed), scores, seed, choices={"method": "cg"})
    run_at(tmp_path / "x", (0.1, 0.95, 0.1), 0, "diverged", choices={"method": "broke"}, grads=50)
    run_at(tmp_path / "y", (0.1,), 1, "interrupted", choices={"method": "broke"})
    first, second = reached(report_of(tmp_path, target="0.9"))
    assert (first.configuration.label, first.count, len(first.runs), first.going) == (
        *("broke", 1, 1),
        1,
    )
    assert first.median("step") == 10  # it had the score, however it ended
    assert (second.count, len(second.runs)) == (2, 3)
    # Steps 10, 20 and never: half of the runs needed 20; a step takes 100 gradients and 2 s.
    assert [second.median(cost) for cost in ("step", "seconds", "inner_grads")] == [20, 40, 2000]
    lower = report_of(tmp_path, target="0.15", higher=False)
    assert reached(lower)[0].median("step") == 0


def test_fewer_than_half_of_the_runs_say_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method_at(tmp_path, "cg", [0.7, 0.8, 0.9])
    assert bilevel_report(monkeypatch, tmp_path, "--target", "0.85") == 0
    text = capsys.readouterr().out
    assert "To test_accuracy at least 0.85" in text
    assert text.splitlines()[-1].split() == ["cg", "1", "of", "3", *["never"] * 4]


def test_each_task_has_its_target_or_the_common_one(sweep: list[Run]) -> None:
    some = report_of(sweep, target="reweight=0.89,hpo=0.5")
    assert {name: part.target for name, part in some.parts.items()} == {
        **{"hpo": 0.5, "meta": None, "reweight": 0.89},
        "ridge": None,
    }
    common = target_of("0.5,hpo=0.4")
    assert [common.of(task) for task in ("meta", "hpo", None)] == [0.5, 0.4, 0.5]
    text = printed.text(some, 100)
    assert text.count("had spent at their") == 2
    assert 'id="target"' in page.html(some, PLOTLY)
    assert "| iaptt | 5 of 5 |" in printed.markdown(some)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("soon", "a score, or TASK=SCORE"),
        ("nan", "a score, or TASK=SCORE"),
        ("", "a score, or TASK=SCORE"),
        ("a=0.5,,", "a score, or TASK=SCORE"),
        ("rewieght=0.5", "They have one task"),
    ],
)
def test_a_wrong_target_ends_with_one_line(
    target: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    method_at(tmp_path, "cg", [0.7])
    assert bilevel_report(monkeypatch, tmp_path, f"--target={target}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(line) <= 400


def test_a_target_of_a_task_that_is_not_there_is_refused(sweep: list[Run]) -> None:
    with pytest.raises(UsageError, match="Did you mean 'reweight'"):
        report_of(sweep, target="rewieght=0.5")


def test_a_target_of_a_task_whose_name_has_a_comma_is_understood() -> None:
    found = target_of("reweight, digits=0.9,meta=-1e-3")
    assert found.tasks == {"reweight, digits": 0.9, "meta": -1e-3}


# A row a run


def test_runs_csv_has_a_row_for_each_run_with_its_options(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    method_at(root, "cg", [0.7, 0.8, 0.91], solver={"lr": 0.1, "name": "=1+1"})
    method_at(root / "broke", "iaptt", [0.1], status="diverged", solver={"lr": 0.2})
    run_at(root / "again", (0.1, 0.5, 0.99), 0, choices={"method": "cg"}, solver={"status": 3})
    asked = report_of(root, target="0.85", group_by=["method"])
    outputs.WRITERS["runs"](asked, tmp_path / "runs.csv")
    rows = {row["run"]: row for row in rows_of(tmp_path / "runs.csv")}
    assert len(rows) == 5
    first = rows["cg,seed=2"]
    assert (first["configuration"], first["seed"], first["counted"]) == ("cg", "2", "yes")
    assert (first["metric"], first["value"]) == ("test_accuracy", "0.91")
    assert (first["method"], first["solver.lr"]) == ("cg", "0.1")
    assert first["solver.name"] == "'=1+1"  # which a spreadsheet shows and does not compute
    assert (first["step"], first["inner_grads"], first["step_to_target"]) == (
        "20.0",
        "2000.0",
        "20.0",
    )
    assert Path(first["folder"]) == root / "cg,seed=2"
    broke = rows["broke/iaptt,seed=0"]
    assert (broke["counted"], broke["why_not"], broke["value"]) == ("no", "diverged", "")
    assert broke["step"] == "20.0"  # where it ended
    assert broke["step_to_target"] == ""


def test_runs_csv_of_several_tasks_says_which(report: Report, tmp_path: Path) -> None:
    outputs.WRITERS["runs"](report, tmp_path / "runs.csv")
    rows = rows_of(tmp_path / "runs.csv")
    assert len(rows) == 23 * 5
    assert {(row["task"], row["metric"]) for row in rows} == {
        (t, m) for t, (m, *_) in TASKS.items()
    }


def test_a_run_that_was_run_again_has_a_row_too(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run_at(root / "b", (0.1, 0.9))
    run_at(root / "a", (0.1, 0.5), manifest={"started": "2026-02-01"})
    outputs.WRITERS["runs"](report_of(root), tmp_path / "runs.csv")
    rows = {row["run"]: row for row in rows_of(tmp_path / "runs.csv")}
    assert (rows["a"]["counted"], rows["b"]["why_not"]) == ("yes", "run again later")

"""Scores against the number of inner steps at test time, in every output of bilevel-report."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pages import PLOTLY, bilevel_report, reported, run_at
from scipy import stats

from bilevel_cli.report.across import by_steps, printed
from bilevel_cli.report.across.apart import compared
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.compare.step_sweep import step_sweep
from bilevel_cli.report.page import page
from bilevel_cli.report.read.runs import read

COUNTS = (0, 1, 5, 50)


def swept_at(
    root: Path, method: str, curves: Sequence[Sequence[float]], trained: int = 5, **more: object
) -> None:
    """Runs with a row at outer steps 0, 10 and 20, whose scores after COUNTS are a third, two
    thirds and all of a curve."""
    for seed, curve in enumerate(curves):
        folder = root / f"{method},seed={seed}"
        choices = {"method": method, **{k: str(v) for k, v in more.items()}}
        run_at(folder, (0.1, 0.5, 0.9), seed=seed, choices=choices, inner_steps=trained)
        head, *rows = (folder / "eval.csv").read_text().splitlines()
        head += "".join(f",test_steps_{n}_{name}" for n in COUNTS for name in ("loss", "f1"))
        head += "".join(f",test_steps_{n}_test_accuracy" for n in COUNTS)
        for place, row in enumerate(rows):
            scores = ",".join(str((place + 1) / 3 * value) for value in curve)
            rows[place] = f"{row},{','.join(['7'] * 2 * len(COUNTS))},{scores}"
        (folder / "eval.csv").write_text("\n".join([head, *rows, ""]))


ONE = ([0.1, 0.2, 0.3, 0.6], [0.1, 0.4, 0.6, 0.9], [0.1, 0.3, 0.6, 0.6])
OTHER = ([0.1, 0.5, 0.4, 0.2], [0.1, 0.7, 0.6, 0.4])


def test_each_number_of_steps_has_the_mean_over_seeds(tmp_path: Path) -> None:
    swept_at(tmp_path, "one", ONE)
    swept_at(tmp_path, "other", OTHER, trained=1)
    report = reported(tmp_path)
    found = step_sweep(report)
    assert found is not None
    # The score is that of the metric, although it is not the first; more of it is better.
    assert (report.metric, found.score, found.higher) == ("test_accuracy", "test_accuracy", True)
    assert (found.counts, found.trained) == (list(COUNTS), [1, 5])
    for one, curves in zip(found.swept, (ONE, OTHER), strict=True):
        for place, count in enumerate(COUNTS):
            values = np.array(curves)[:, place]
            estimate = one.estimates[count]
            assert estimate.value == pytest.approx(values.mean())
            assert estimate.n == len(curves)
    assert [found.best(one) for one in found.swept] == [50, 1]


def test_the_interval_of_a_score_without_bounds_is_students(tmp_path: Path) -> None:
    swept_at(tmp_path, "one", [[value - 2 for value in curve] for curve in ONE])
    found = step_sweep(reported(tmp_path))
    assert found is not None
    for place, count in enumerate(COUNTS):
        values = np.array(ONE)[:, place] - 2
        if values.std() > 0:
            low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
            estimate = found.swept[0].estimates[count]
            assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_scores_are_those_of_the_row_where_runs_are_compared(tmp_path: Path) -> None:
    swept_at(tmp_path, "one", ONE)
    found = step_sweep(reported(tmp_path, at="steps=10"))
    assert found is not None
    assert found.swept[0].estimates[50].value == pytest.approx(2 / 3 * 0.7)


def test_a_metric_at_some_steps_shows_the_curve_of_its_score(tmp_path: Path) -> None:
    swept_at(tmp_path, "one", ONE)
    found = step_sweep(reported(tmp_path, metric="test_steps_5_f1"))
    assert found is not None
    assert found.score == "f1"
    found = step_sweep(reported(tmp_path, metric="test_steps_1_test_accuracy", higher=False))
    assert found is not None
    assert (found.score, found.higher, found.best(found.swept[0])) == ("test_accuracy", False, 0)


def test_the_table_marks_the_steps_of_training_and_names_the_best(tmp_path: Path) -> None:
    swept_at(tmp_path, "one", ONE[:1])
    text = printed.text(reported(tmp_path), 120)
    assert "Test accuracy after other numbers of inner steps than in training" in text
    head, row = text.splitlines()[-2:]
    assert head.startswith("configuration")
    assert row.split() == ["one", "5", "0.1", "0.2", "0.3", "*", "0.6", "50"]
    assert "| one | 5 | 0.1 | 0.2 | 0.3 \\* | 0.6 | 50 |" in printed.markdown(reported(tmp_path))


def test_runs_without_such_scores_have_none_of_it(tmp_path: Path) -> None:
    run_at(tmp_path / "plain")
    report = reported(tmp_path)
    assert step_sweep(report) is None
    assert "inner steps than" not in printed.text(report, 120)
    assert 'id="inner-steps"' not in page.html(report, PLOTLY)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the file of an option of bilevel-report, and returns its text."""
    swept_at(tmp_path / "runs", "one", ONE)
    swept_at(tmp_path / "runs", "other", OTHER, trained=1)

    def write(option: str, name: str) -> str:
        path = tmp_path / name
        assert bilevel_report(monkeypatch, tmp_path / "runs", option, path) == 0
        return path.read_text(errors="replace")

    return write


def test_tables_for_other_programs_have_a_column_for_each_number_of_steps(
    asked: Callable[..., str],
) -> None:
    rows = list(csv.DictReader(asked("--csv", "table.csv").splitlines()))
    assert [float(row["test_steps_50_test_accuracy"]) for row in rows] == pytest.approx([0.7, 0.3])
    assert float(rows[0]["test_steps_5_test_accuracy_low"]) < 0.5
    runs = list(csv.DictReader(asked("--runs", "runs.csv").splitlines()))
    of_one = [float(r["test_steps_1_test_accuracy"]) for r in runs if r["configuration"] == "one"]
    assert sorted(of_one) == pytest.approx([0.2, 0.3, 0.4])


def test_the_page_and_the_figure_draw_a_curve_and_mark_the_steps_of_training(
    asked: Callable[..., str],
) -> None:
    html = asked("--html", "page.html")
    section = html.partition('id="inner-steps"')[2].partition("</section>")[0]
    assert section.count("<polyline") == section.count("<polygon") == 2
    assert "K = 1<" in section
    assert "K = 5<" in section
    for point in section.partition('polyline points="')[2].partition('"')[0].split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 560
        assert 0 <= y <= 240
    assert asked("--steps", "steps.svg").count("<svg") == 1


def test_several_tasks_have_a_curve_each(tmp_path: Path) -> None:
    for task in ("meta", "sinusoid"):
        swept_at(tmp_path / task, "one", ONE, task=task)
        swept_at(tmp_path / task, "other", OTHER, trained=1, task=task)
    report = compared(read([tmp_path]), Question(), None, None)
    assert list(report.parts) == ["meta", "sinusoid"]
    html = page.html(report, PLOTLY)
    assert html.partition('id="inner-steps"')[2].count("<polyline") == 4
    assert printed.text(report, 120).count("inner steps than in training") == 2
    by_steps.save(report, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 1000


def test_a_figure_of_runs_without_such_scores_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_at(tmp_path / "plain")
    assert bilevel_report(monkeypatch, tmp_path / "plain", "--steps", tmp_path / "a.svg") == 2
    said = capsys.readouterr().err
    assert "--steps needs scores after several numbers of inner steps" in said
    assert "test_steps=[0,1,5,50]" in said


def test_labels_below_an_axis_keep_apart() -> None:
    assert by_steps.spaced([7]) == [7]
    assert by_steps.spaced([0, 1, 5, 50]) == [0, 1, 5, 50]
    assert by_steps.spaced(list(range(101)))[:2] == [0, 1]
    assert by_steps.spaced(list(range(101)))[-1] == 100

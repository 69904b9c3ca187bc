"""Curves of many methods and of several tasks: who is in front, and what is in view."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pages import PLOTLY, leave, reported, run_at
from test_page import Tags, data_of

from bilevel_cli.report.across.apart import compared
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.page import numbers, page, sections
from bilevel_cli.report.read.runs import read
from bilevel_cli.report.show import drawing, figures, palette
from bilevel_cli.report.show.curves import Band, Curve
from bilevel_cli.report.show.lineup import FEW, FRONT, lineup
from bilevel_cli.report.show.plots import apart, traced
from bilevel_cli.report.show.scale import FAR, Scale, scale

EVERY = np.linspace(0, 1, 101)


def in_view(*curves: Curve, bands: tuple[Band, ...] = (), behind: tuple[Curve, ...] = ()) -> Scale:
    found = scale(curves, bands, behind)
    assert found is not None
    return found


# ---------------------------------------------------------------------------------- range


def test_a_fall_from_a_bad_start_does_not_flatten_what_comes_after() -> None:
    found = in_view(Curve(EVERY, np.where(EVERY < 0.05, 100.0, 1 + EVERY)))
    assert found.cut
    assert_allclose([found.low, found.high], [1.1 - 0.9 * 0.06, 2 + 0.9 * 0.06], rtol=1e-9)
    gentle = in_view(Curve(EVERY, 1 + EVERY))
    assert not gentle.cut  # where the start takes a tenth of the height


def test_the_score_of_step_0_leaves_the_plot_also_where_there_are_few_rows() -> None:
    found = in_view(Curve(np.array([0.0, 2, 3]), np.array([100.0, 2, 1])))
    assert found.cut
    assert found.high < 2.1
    two = in_view(Curve(np.array([0.0, 3]), np.array([100.0, 1])))
    assert two.high > 100  # the line between two rows would leave the plot


def test_a_curve_that_ends_early_has_a_beginning_of_its_own() -> None:
    short = EVERY / 20  # all of it is within the first tenth of the longer one
    fall = np.where(EVERY < 0.05, 100.0, 1 + EVERY)
    found = in_view(Curve(EVERY, fall), Curve(short, fall - 0.5))
    assert_allclose([found.low, found.high], [0.6 - 1.4 * 0.06, 2 + 1.4 * 0.06], atol=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_curves_that_would_make_one_line_of_the_others_are_out_of_view(sign: int) -> None:
    near = [Curve(EVERY, sign * (EVERY + shift)) for shift in (0.0, 0.1, 0.2)]
    far = [Curve(EVERY, sign * (10.0**power + EVERY)) for power in (3, 8)]
    found = in_view(*near, *far)
    assert found.far == [3, 4]
    assert max(abs(found.low), abs(found.high)) < 1.4


def test_the_best_curve_is_in_view_wherever_it_is() -> None:
    found = in_view(*[Curve(EVERY, EVERY + shift) for shift in (1e6, 0.0, 0.1)])
    assert found.far == []
    assert found.high > 1e6


def test_no_more_than_half_of_the_curves_are_out_of_view() -> None:
    found = in_view(*[Curve(EVERY, EVERY + 100.0**power) for power in range(9)])
    assert found.far == [5, 6, 7, 8]


def test_a_curve_is_in_view_up_to_twenty_times_the_height_of_the_others() -> None:
    for height, out in ((FAR - 0.5, []), (FAR + 0.5, [2])):
        far = Curve(EVERY, EVERY + height - 1)
        assert in_view(Curve(EVERY, EVERY), Curve(EVERY, EVERY), far).far == out


def test_two_methods_are_both_in_view() -> None:
    found = in_view(Curve(EVERY, 0.9 + EVERY / 1000), Curve(EVERY, 0.1 + EVERY / 1000))
    assert found.low < 0.1 < 0.9 < found.high


def test_a_wide_band_widens_the_plot_by_half_its_height_at_most() -> None:
    x = np.linspace(0, 1, 11)
    narrow, wide = (Band(x, x, x - half, x + half) for half in (0.1, 50))
    for band, end in ((narrow, 1.1 + 0.072), (wide, 1.5 + 0.12)):  # with 6 % of room
        found = in_view(Curve(x, x), bands=(band,))
        assert_allclose([found.low, found.high], [1 - end, end])


def test_the_band_of_a_curve_that_is_out_of_view_widens_nothing() -> None:
    curves = [Curve(EVERY, shift + sign * EVERY) for shift, sign in ((0.0, 1), (0.1, 1), (1, -1e6))]
    bands = [None, None, Band(EVERY, curves[2].y, curves[2].y, curves[2].y + 0.5)]
    found = scale(curves, bands)
    assert found is not None
    assert found.far == [2]
    assert -0.1 < found.low < found.high < 1.2


def test_curves_in_grey_widen_the_plot_by_its_height_at_most() -> None:
    found = in_view(
        Curve(EVERY, EVERY), behind=(Curve(EVERY, EVERY - 50), Curve(EVERY, EVERY + 0.1))
    )
    assert_allclose([found.low, found.high], [-1 - 0.06 * 2.1, 1.1 + 0.06 * 2.1])


def test_without_a_number_there_is_no_range() -> None:
    assert scale([]) is None
    assert scale([Curve(EVERY, EVERY * np.nan)]) is None
    assert scale([], behind=[Curve(EVERY, EVERY)]) is not None


# ---------------------------------------------------------------------------------- names


def test_names_keep_their_distance_and_stay_near_their_curves() -> None:
    found = apart([0.5, 0.5, 0.51, 0.99, 1.0], 0.1)
    gaps = np.diff(sorted(found))
    assert (gaps > 0.1 - 1e-12).all()
    assert_allclose(found[1], 0.5033, atol=1e-3)  # three within 0.01 stand around their mean
    assert max(found) <= 1


def test_more_names_than_fit_share_the_height() -> None:
    found = apart(np.zeros(20), 0.1)
    assert min(found) >= 0
    assert_allclose(np.diff(sorted(found)), 1 / 20)


# --------------------------------------------------------------------------------- lineup


def crowd(root: Path, count: int, broken: int = 0) -> Report:
    """Methods of two seeds each: `m7` is better than `m6`, and so on; some broke."""
    for number in range(count):
        for seed in range(2):
            rise = [0.1, 0.5, 0.8, 0.85 + number / 1000 + seed / 100]
            leave(root, f"m{number}", seed, rise)
    for number in range(broken):
        leave(root, f"broken{number}", 0, [0.1, 0.2], "diverged", "No finite loss.")
    return reported(root)


def grid(root: Path, tasks: int, methods: int) -> Report:
    """Runs of methods on tasks: the later task has a hundred times the scores."""
    for task in range(tasks):
        for method in range(methods):
            for seed in range(2):
                run_at(
                    root / f"{task},{method},{seed}",
                    [100.0**task * (row + method + seed / 10) for row in range(4)],
                    seed=seed,
                    choices={"method": f"m{method}", "task": f"t{task}"},
                )
    return reported(root)


def test_few_methods_are_all_in_front_and_keep_their_colours_whoever_is_best(
    tmp_path: Path,
) -> None:
    placed = lineup(crowd(tmp_path, FEW))
    assert not placed.crowded
    assert [one.label for one in placed.entries] == [f"m{n}" for n in reversed(range(FEW))]
    assert {one.label: one.style for one in placed.entries} == {f"m{n}": n for n in range(FEW)}


def test_of_many_methods_the_best_are_in_front_and_have_the_first_styles(tmp_path: Path) -> None:
    placed = lineup(crowd(tmp_path, FEW + 2, broken=1))
    assert placed.crowded
    assert [one.label for one in placed.entries if one.front] == [
        f"m{FEW + 1 - rank}" for rank in range(FRONT)
    ]
    assert [one.style for one in placed.entries] == list(range(FEW + 3))
    assert (placed.entries[-1].label, placed.entries[-1].ranked) == ("broken0", False)


def test_a_curve_of_survivors_says_how_many_are_missing(tmp_path: Path) -> None:
    for seed in range(3):
        leave(tmp_path, "shaky", seed, [0.1, 0.9], "diverged" if seed else "completed")
        leave(tmp_path, "firm", seed, [0.1, 0.8])
    labels = [one.label for one in lineup(reported(tmp_path)).entries]
    assert sorted(labels) == ["firm", "shaky (2 of 3 broke)"]


def test_each_task_has_a_panel_in_which_a_method_has_its_own_name_and_colour(
    tmp_path: Path,
) -> None:
    report = grid(tmp_path, 4, 6)
    placed = lineup(report)
    assert placed.panels == ["t0", "t1", "t2", "t3"]
    assert sorted(one.label for one in placed.entries) == [f"m{n}" for n in range(6)]
    for panel in range(4):
        members = placed.members(panel)
        assert len({placed.style(number) for number in members}) == 6
        labels = [placed.entries[placed.entry[number]].label for number in members]
        assert labels == [f"m{n}" for n in reversed(range(6))]
    series = data_of(page.html(report, PLOTLY))["series"]
    assert [one["panel"] for one in series] == placed.panel


def test_bands_end_where_the_scores_of_their_own_task_do(tmp_path: Path) -> None:
    for task, worst in (("accuracy", 0.1), ("reward", -0.1)):
        for seed in range(2):
            for method in ("a", "b"):
                run_at(
                    tmp_path / f"{task},{method},{seed}",
                    [worst, 0.2 + 0.7 * seed],
                    seed=seed,
                    choices={"method": method, "task": task},
                )
    report = compared(read([tmp_path]), Question())
    placed, drawn = traced(report)
    series = numbers.data(report)["series"]
    for number, panel in enumerate(placed.panel):
        mean = drawn[number].mean
        assert mean is not None
        low = mean.low
        assert_allclose(series[number]["means"][report.metric]["step"]["low"], low, rtol=1e-4)
        assert (min(low) >= 0) == (placed.panels[panel] == "accuracy")


def test_where_tasks_alone_differ_their_names_stay(tmp_path: Path) -> None:
    placed = lineup(grid(tmp_path, 3, 1))
    assert [one.label for one in placed.entries] == ["t0", "t1", "t2"]
    assert all(one.front for one in placed.entries)


# --------------------------------------------------------------------------------- page


def test_the_legend_is_in_the_order_of_the_table_and_shows_who_is_in_front(
    tmp_path: Path,
) -> None:
    report = crowd(tmp_path, FEW + 1, broken=2)
    found = page.html(report, PLOTLY)
    entries = re.findall(r'aria-pressed="(\w+)">.*?<span>(.*?)</span></button>', found)
    assert [label for _, label in entries] == [row.configuration.label for row in report.rows]
    assert [pressed for pressed, _ in entries] == ["true"] * FRONT + ["false"] * (FEW + 3 - FRONT)
    rows = [a["data-entry"] for tag, a in Tags(found).tags if tag == "tr" and "data-entry" in a]
    assert rows == [str(number) for number in range(FEW + 3)]


def test_a_dot_stands_where_the_number_of_the_table_does(tmp_path: Path) -> None:
    report = crowd(tmp_path, 3)
    data = data_of(page.html(report, PLOTLY))
    assert data["budget"] == {"axis": "step", "limit": 15}
    for row in report.rows:
        compared = data["series"][report.configurations.index(row.configuration)]["compared"]
        assert compared["y"] == pytest.approx(row.estimate.value, rel=1e-4)
        assert compared["x"]["inner_grads"] == row.costs["inner_grads"] == 300
        assert compared["x"]["step"] == 15


def test_settings_of_many_configurations_are_columns(tmp_path: Path) -> None:
    few, many = crowd(tmp_path / "few", 2), crowd(tmp_path / "many", FEW + 1)
    for report, columns in ((few, 3), (many, 2)):
        table = sections.differing(report)
        assert table.split("</thead>")[0].count("<th ") == columns


# -------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("made", "width"),
    [
        (lambda root: crowd(root, 2), figures.WIDTH),
        (lambda root: crowd(root, FEW, broken=1), figures.PAGE),
        (lambda root: grid(root, 2, 2), figures.PAGE),
    ],
)
def test_every_name_is_in_the_figure_and_nothing_is_wider_than_a_page(
    made: Callable[[Path], Report], width: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = made(tmp_path / "runs")
    monkeypatch.setitem(drawing.STYLE, "svg.fonttype", "none")  # letters stay letters
    figures.save(report, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert float(re.findall(r'width="([\d.]+)pt"', text)[0]) == pytest.approx(72 * width)
    for entry in lineup(report).entries:
        assert re.search(rf">(\d+\. )?{entry.label}<", text), entry.label


def test_long_names_keep_their_ends_and_nobody_is_called_best_without_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(drawing.STYLE, "svg.fonttype", "none")
    for number in range(FEW + 1):
        leave(tmp_path / str(number), f"{'x' * 40}{number}", 0, [0.1, "nan"], "diverged", "Bad.")
    figures.save(reported(tmp_path), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert all(f"xx{number}<" in text for number in range(FEW + 1))
    assert "the best" not in text


def test_the_first_six_curves_of_a_figure_differ_in_their_dashes(tmp_path: Path) -> None:
    figures.save(crowd(tmp_path / "runs", 6), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for colour, _ in palette.COLOURS:
        assert colour in text
    dashes = set(re.findall(r"stroke-dasharray: ([\d., ]+)", text))
    assert len(dashes) >= 5

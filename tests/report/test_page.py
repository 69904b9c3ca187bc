"""The page and the figures of bilevel-report, as files; in a browser, see test_browser.py."""

import base64
import io
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from pages import EVERY, PLOTLY, leave, many, reported, three_methods
from PIL import Image

from bilevel_cli.errors import UsageError
from bilevel_cli.report.compare.measure import Course
from bilevel_cli.report.page import charts, numbers, page, pictures
from bilevel_cli.report.show import drawing, figures, palette
from bilevel_cli.report.show.curves import Curve, band, curve, end, spread
from bilevel_cli.report.show.headline import headline

EVIL = "</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """The tags of a page, as a browser sees them, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.lasttag == "script":
            self.scripts[-1] += data


def data_of(text: str) -> Any:
    """The JSON of a page; it raises where that has a NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Tags(text).scripts[0], parse_constant=refuse)


# ------------------------------------------------------------------------------- curves


def test_a_band_is_students_interval_at_each_step_that_runs_share() -> None:
    steps = np.array([0.0, 10, 20])
    found = band([Curve(steps, steps * 0 + value) for value in (1.0, 2, 3)], 400)
    assert found is not None
    assert_allclose(found.x, steps)
    assert_allclose(found.mean, 2)
    # t(0.975, 2) = 4.302653 (tables), s = 1, n = 3.
    assert_allclose(found.high - found.mean, 4.302653 / 3**0.5, rtol=1e-6)
    assert_allclose(found.mean - found.low, 4.302653 / 3**0.5, rtol=1e-6)


def test_a_band_reads_between_rows_and_ends_where_the_first_run_does() -> None:
    one = Curve(np.array([0.0, 4]), np.array([0.0, 4]))
    other = Curve(np.array([1.0, 3, 8]), np.array([1.0, 3, 8]))
    found = band([one, other], 400)
    assert found is not None
    assert_allclose(found.x, [1, 3, 4])
    assert_allclose(found.mean, found.x)  # both are the line y = x
    assert_allclose(found.high, found.x)


@pytest.mark.parametrize(
    "other", [Curve(np.empty(0), np.empty(0)), Curve(np.ones(1) * 9, np.ones(1))]
)
def test_there_is_no_mean_of_runs_that_nowhere_overlap(other: Curve) -> None:
    assert band([Curve(np.arange(3.0), np.arange(3.0)), other], 400) is None


def test_a_mean_is_unknown_where_a_run_has_no_finite_number() -> None:
    steps = np.arange(4.0)
    holed = Curve(steps, np.array([1.0, np.nan, 1, 1]))
    found = band([Curve(steps, steps), holed], 400)
    assert found is not None
    assert np.isnan(found.mean).tolist() == [False, True, False, False]


def test_of_rows_at_the_same_cost_the_last_counts_and_unknown_costs_are_left_out() -> None:
    costs = {"inner_grads": np.array([0.0, 0, 7, np.nan, 9])}
    found = curve(Course(np.array([1.0, 2, 3, 4, 5]), costs), "inner_grads")
    assert found.x.tolist() == [0, 7, 9]
    assert found.y.tolist() == [2, 3, 5]
    assert end(Curve(found.x, np.array([1, 2, np.nan]))) == (7, 2)


@pytest.mark.parametrize(("length", "count"), [(5, 400), (400, 400), (10_000, 400), (3, 2)])
def test_thinned_rows_are_few_and_keep_both_ends(length: int, count: int) -> None:
    kept = spread(length, count)
    assert len(kept) == min(length, count)
    assert kept[0] == 0
    assert kept[-1] == length - 1
    assert (np.diff(kept) > 0).all()


# ------------------------------------------------------------------------------ palette


def _linear(colour: str) -> NDArray[np.float64]:
    part = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Of WCAG 2."""
    light, dark = sorted(float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))[::-1]
    return (light + 0.05) / (dark + 0.05)


def _lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes (2009), at full severity, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [
        [0.3673, 0.8606, -0.2280],
        [0.2801, 0.6725, 0.0474],
        [-0.0118, 0.0429, 0.9689],
    ],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", [0, 1])
def test_any_two_colours_differ_for_all_who_see(theme: int, vision: str) -> None:
    seen = [_lab(np.array(VISION[vision]) @ _linear(pair[theme])) for pair in palette.COLOURS]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 19.5  # 20 as palette.py says, in four digits of the matrices


def test_thirty_six_series_look_different() -> None:
    count = len(palette.COLOURS) * len(palette.DASHES)
    assert len({palette.style(number) for number in range(count)}) == count == 36


def test_up_to_six_series_are_told_apart_without_colours() -> None:
    dashes = [palette.style(number).dash for number in range(len(palette.COLOURS))]
    assert len(set(dashes)) == len(palette.COLOURS)


def test_text_and_lines_have_the_contrast_of_wcag_aa() -> None:
    css = (page.ASSETS / "page.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)
    colours = {name: (light, dark) for name, light, dark in pairs}
    for theme in (0, 1):
        for name in ("ink", "soft", "accent", "warn", "good"):
            for back in ("page", "card"):
                assert contrast(colours[name][theme], colours[back][theme]) >= 4.5, (name, back)
        for name in ("good", "warn"):
            assert contrast(colours[name][theme], colours[f"{name}-back"][theme]) >= 4.5, name
        for pair in palette.COLOURS:
            assert contrast(pair[theme], colours["card"][theme]) >= 3, pair


# --------------------------------------------------------------------------------- page


def test_the_page_fetches_nothing_and_refuses_to(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page.write(three_methods(tmp_path / "runs"), path)
    found = Tags(path.read_text(encoding="utf-8"))
    assert sum(len(script) for script in found.scripts) > 1e6  # plotly.js is inside
    for tag, attributes in found.tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\(|@import", (page.ASSETS / "page.css").read_text())
    policy = [a["content"] for tag, a in found.tags if a.get("http-equiv")]
    assert policy
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none';")
    assert "http" not in policy[0]


def test_what_runs_are_called_stays_text(tmp_path: Path) -> None:
    plain = page.html(three_methods(tmp_path / "plain"), PLOTLY)
    leave(tmp_path / "evil", EVIL, 0, [0.1, 0.5], "completed", EVIL)
    leave(tmp_path / "evil", f"{EVIL}'\"&", 1, [0.1], "failed", EVIL, {EVIL: EVIL})
    folder = next((tmp_path / "evil").iterdir())
    (folder / "eval.csv").write_text(f"step,seconds,{EVIL}\n0,0,0.5\n")
    found = page.html(reported(tmp_path / "evil"), PLOTLY)
    tags = Tags(found)
    assert [tag for tag, _ in tags.tags].count("script") == [t for t, _ in Tags(plain).tags].count(
        "script"
    )
    assert "img" not in [tag for tag, _ in tags.tags]
    assert not [attributes for _, attributes in tags.tags if "onerror" in attributes]
    labels = [one["label"] for one in data_of(found)["series"]]
    assert any(EVIL in label for label in labels)  # and yet there
    assert any(EVIL in name for name in data_of(found)["metrics"])


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    leave(tmp_path, "one", 0, [0.1, "nan", "inf", 0.4])
    data = data_of(page.html(reported(tmp_path), PLOTLY))
    assert data["series"][0]["runs"][0]["tables"]["eval"]["y"]["test_accuracy"] == [
        *(0.1, None, None, 0.4)
    ]


def test_evaluations_have_the_costs_of_training(tmp_path: Path) -> None:
    leave(tmp_path, "one", 0, [0.1, 0.2, 0.3])
    table = data_of(page.html(reported(tmp_path), PLOTLY))["series"][0]["runs"][0]["tables"]["eval"]
    assert table["x"]["step"] == [0, EVERY, 2 * EVERY]
    assert table["x"]["inner_grads"] == [0, 100, 200]
    assert table["x"]["peak_memory_mb"] == [50, 50, 50]


def test_the_means_of_the_page_are_those_of_the_table(tmp_path: Path) -> None:
    three_methods(tmp_path)
    leave(tmp_path, "good", 9, [0.1, 0.1], "diverged")
    found = reported(tmp_path)
    data = numbers.data(found)
    for row in found.rows:
        one = data["series"][found.configurations.index(row.configuration)]
        if row.values:
            mean = one["means"][found.metric]["step"]
            assert one["grids"][mean["grid"]][-1] == found.budget.limit
            ends = [mean[name][-1] for name in ("mean", "low", "high")]
            estimate = row.estimate
            assert_allclose(ends, [estimate.value, estimate.low, estimate.high], rtol=1e-4)
        else:
            assert not one["means"]


def test_a_configuration_whose_runs_left_nothing_is_a_series_nevertheless(tmp_path: Path) -> None:
    found = page.html(three_methods(tmp_path), PLOTLY)
    labels = [one["label"] for one in data_of(found)["series"]]
    assert labels == ["bad", "good", "near", "none (failed)", "poor"]
    assert "<span>none (failed)</span>" in found
    runs = data_of(found)["series"][0]["runs"]
    assert [(run["status"], run["broken"], run["counted"]) for run in runs] == [
        ("diverged", True, False)
    ]


def test_failures_are_told_with_their_reasons_and_runs_with_their_manifests(tmp_path: Path) -> None:
    found = page.html(three_methods(tmp_path), PLOTLY)
    # In the table of failures, and with the run.
    assert found.count("At step 10 there is no finite loss.") == 2
    assert "It needs &lt;more&gt; memory." in found
    for entry in (
        "bilevel-run method=good seed=2",
        "c0ffee",
        "5ea1",
        "torch 2.11.0",
        "cpu, 1 thread",
    ):
        assert entry in found, entry


def test_a_report_of_a_run_without_rows_is_a_page(tmp_path: Path) -> None:
    leave(tmp_path, "none", 0, [], "failed", "It broke.")
    found = page.html(reported(tmp_path), PLOTLY)
    assert "No run has a number to compare. 1 of 1 runs broke." in found
    assert data_of(found)["metric"] is None


def test_the_headline_says_who_wins_and_who_is_level(tmp_path: Path) -> None:
    found = three_methods(tmp_path / "all")
    assert headline(found, "\u00b1") == (
        "good leads, level with near, as far as 3 seeds tell: test accuracy 0.91 [0.87, 0.94] "
        "after 20 outer steps. 2 of 11 runs broke."
    )
    for seed, method in itertools.product(range(5), ("good", "poor")):
        leave(tmp_path / "two", method, seed, [0.9 if method == "good" else 0.5 + seed / 100])
    assert headline(reported(tmp_path / "two")) == (
        "good is best: test accuracy 0.9 +- 0 after 0 outer steps; "
        "next is poor, worse by 0.38 [0.36, 0.40]."
    )
    leave(tmp_path / "few", "a", 0, [0.5])
    leave(tmp_path / "few", "b", 0, [0.6])
    assert headline(reported(tmp_path / "few")).startswith("b leads, not compared with a (1 seed):")
    leave(tmp_path / "only", "a", 0, [0.5])
    leave(tmp_path / "only", "b", 0, [], "oom")
    only = headline(reported(tmp_path / "only"))
    assert only.startswith("Only a has a number to compare: test accuracy 0.5 ")
    leave(tmp_path / "single", "a", 0, [0.5])
    assert headline(reported(tmp_path / "single")) == "Test accuracy 0.5 after 0 outer steps."


@pytest.mark.parametrize(
    ("runs", "rows"), [(50, 1000), pytest.param(200, 10_000, marks=pytest.mark.slow)]
)
def test_many_long_runs_fit_into_a_page(runs: int, rows: int) -> None:
    found = many(runs, rows)
    assert len(page.html(found, PLOTLY)) < 10e6  # and plotly.js has 5
    curves = numbers.data(found)["series"][0]["runs"][0]["tables"]["eval"]
    assert 20 <= len(curves["x"]["step"]) <= numbers.MOST_POINTS + len(curves["y"])
    assert curves["x"]["step"][-1] == rows - 1


@pytest.mark.parametrize(
    ("module", "write", "name"),
    [("plotly.offline", page.write, "a.html"), ("matplotlib", figures.save, "a.pdf")],
)
def test_without_the_extra_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, write: Any, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=re.escape("pip install 'bilevel-cli[report]'")):
        write(three_methods(tmp_path / "runs"), tmp_path / name)


# ----------------------------------------------------------------------------- pictures


def _learned(tmp_path: Path, name: str, content: str | bytes) -> tuple[str, int]:
    folder = leave(tmp_path, "one", 0, [0.5])
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    found, left_out = pictures.found(reported(tmp_path).configurations)
    return " ".join(one.html for one in found), left_out


def test_weights_are_a_histogram_with_flagged_examples_apart(tmp_path: Path) -> None:
    rows = [f"{i},{0.9 if i < 30 else 0.1},3,{int(i >= 30)}" for i in range(40)]
    found, _ = _learned(tmp_path, "weights.csv", "\n".join(["index,weight,label,flag", *rows]))
    assert "not flagged, 30, median 0.9" in found
    assert "flagged as corrupted, 10, median 0.1" in found
    tops = [re.findall(r"V([\d.]+)H", path) for path in re.findall(r'd="([^"]+)"', found)]
    heights = [[charts.HEIGHT - float(top) for top in bars] for bars in tops]
    # Bars of 1/40 from 0 to 1: 0.1 is in bar 4, 0.9 in bar 36, a third as high.
    assert heights[0].index(max(heights[0])) == 36
    assert heights[1].index(max(heights[1])) == 4
    assert_allclose(max(heights[1]) / max(heights[0]), 1 / 3, atol=0.01)


def test_weights_without_flags_are_one_histogram(tmp_path: Path) -> None:
    found, _ = _learned(tmp_path, "weights.csv", "index,weight\n0,0.5\n1,2.5\n")
    assert found.count("<path") == 1
    assert "all examples (2)" in found


def sheet(columns: int, rows: int) -> bytes:
    """A picture of images of 56 pixels, as `save_grid` writes it."""
    file = io.BytesIO()
    Image.new("L", (58 * columns - 2, 58 * rows - 2)).save(file, "PNG")
    return file.getvalue()


def test_a_distilled_set_is_shown_in_its_own_size_or_scrolls(tmp_path: Path) -> None:
    found, _ = _learned(tmp_path, "distilled.png", sheet(10, 10))
    source = re.findall(r'src="data:image/png;base64,([^"]+)"', found)
    assert base64.b64decode(source[0]) == sheet(10, 10)
    assert 'width="578" height="578"' in found


def test_a_column_of_distilled_images_stands_side_by_side_and_is_embedded_once(
    tmp_path: Path,
) -> None:
    found, _ = _learned(tmp_path, "distilled.png", sheet(1, 10))
    assert found.count("base64,") == 1
    boxes = re.findall(r'viewBox="0 (\d+) 56 56" width="92"', found)
    assert boxes == [str(58 * row) for row in range(10)]


def test_penalties_are_shown_against_what_they_left_of_the_weights(tmp_path: Path) -> None:
    text = "feature,log_l2,l2,weight\n0,-1,0.37,-2\n1,3,20,0.1\n"
    found, _ = _learned(tmp_path, "hyperparameters.csv", text)
    assert found.count("<circle") == 2


def test_what_was_learned_is_shown_where_it_was_best_with_its_scores(tmp_path: Path) -> None:
    text = "step,validation_loss,lr,best\n0,0.5,0.1,0\n5,0.25,0.2,1\n10,0.3,0.4,0\n"
    found, _ = _learned(tmp_path, "hyperparameters.csv", text)
    assert "<td><code>lr</code></td><td>0.1</td><td><b>0.2</b></td>" in found
    assert "<code>validation_loss</code>" not in found
    assert "after 5 of 10 outer steps: validation loss 0.25" in found


def test_the_examples_of_least_weight_are_shown_with_their_labels(tmp_path: Path) -> None:
    rows = [f"{1000 + i},{i / 40},3,{int(i < 9)},{8.0 if i < 5 else 3.0}" for i in range(40)]
    rows = ["77777,,3,0,", *reversed(rows)]  # not judged, so of no weight
    text = "\n".join(["index,weight,label,flag,suggested", *rows])
    found, _ = _learned(tmp_path, "weights.csv", text)
    shown = re.findall(
        r"<tr><td>(\d+)</td><td>3</td><td>(.*?)</td><td>.*?</td><td>(yes|no)</td>", found
    )
    assert [int(name) for name, _, _ in shown] == list(range(1000, 1000 + pictures.MOST_ROWS))
    assert [suggested for _, suggested, _ in shown[:6]] == ["<b>8</b>"] * 5 + ["3"]
    assert [flag for _, _, flag in shown].count("yes") == 9
    assert "The 15 of 40 training examples" in found
    assert "For 5 of them the classifier suggests another label" in found


@pytest.mark.parametrize("name", ["weights.csv", "distilled.png", "hyperparameters.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00\xfe", b"weight,log_l2,best\n<b>,x,y\n"])
def test_a_damaged_file_is_a_note_or_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    found, _ = _learned(tmp_path, name, content)
    assert {tag for tag, _ in Tags(found).tags} <= {"figcaption"}


def test_pictures_beyond_the_size_of_a_page_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    assert _learned(tmp_path, "weights.csv", "index,weight\n0,0.5\n") == ("", 1)


def test_without_files_to_show_there_is_no_such_section(tmp_path: Path) -> None:
    assert 'id="pictures"' not in page.html(three_methods(tmp_path), PLOTLY)


# ------------------------------------------------------------------------------ figures


@pytest.mark.parametrize("suffix", drawing.SUFFIXES)
def test_a_figure_is_the_same_bytes_every_time(tmp_path: Path, suffix: str) -> None:
    found = three_methods(tmp_path / "runs")
    paths = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for path in paths:
        figures.save(found, path)
    one, other = (path.read_bytes() for path in paths)
    assert one == other
    assert not re.search(rb"CreationDate|<dc:date>|ModDate|20\d\d-\d\d-\d\d", one)


def test_a_figure_is_as_wide_as_a_column_and_labels_are_only_text(tmp_path: Path) -> None:
    for seed, method in enumerate([r"$\alpha_{", r"100% \textbf{x}", "_^&#~", "x" * 300]):
        leave(tmp_path / "runs", method, seed, [0.1, 0.5, 0.6])
    path = tmp_path / "a.png"
    figures.save(reported(tmp_path / "runs"), path)
    with Image.open(path) as image:
        assert image.width == round(figures.WIDTH * 300)
        assert image.height > figures.HEIGHT * 300


@pytest.mark.parametrize("at", ["seconds", "inner_grads", "peak_memory_mb", "end"])
def test_a_figure_is_drawn_against_every_budget(tmp_path: Path, at: str) -> None:
    three_methods(tmp_path / "runs")
    figures.save(reported(tmp_path / "runs", at=at), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 5000


def test_a_figure_of_another_format_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ending in \.png, \.svg, \.pdf"):
        figures.save(three_methods(tmp_path / "runs"), tmp_path / "a.gif")
    leave(tmp_path / "none", "none", 0, [])
    with pytest.raises(UsageError, match="have not been evaluated"):
        figures.save(reported(tmp_path / "none"), tmp_path / "a.png")

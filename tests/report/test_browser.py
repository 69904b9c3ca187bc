"""The page of bilevel-report in Chromium, from its file alone and off the network."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import leave, reported, three_methods
from test_crowds import crowd, grid

from bilevel_cli.report.page import page
from bilevel_cli.report.show.curves import Band, Curve
from bilevel_cli.report.show.lineup import FRONT
from bilevel_cli.report.show.scale import scale

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of [dev]")

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    three_methods(folder / "runs")
    evil = "<b>a</b></script><img src=x onerror=alert(1)>"
    leave(folder / "runs", evil, 7, [0.1, 0.2, 0.3, 0.35, 0.4])
    page.write(reported(folder / "runs"), folder / "page.html")
    return folder / "page.html"


class Opened:
    """A page, and all that it asked for and complained about."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, **context: Any) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, **context
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(file.as_uri())
        self.page.wait_for_function("document.querySelectorAll('#plot .trace').length")

    def traces(self) -> list[dict[str, Any]]:
        """What Plotly draws: for each trace its series, kind, and whether it is visible."""
        script = """plot.data.map(({ meta, x, y }, number) =>
            ({ ...meta, x, y, visible: plot._fullData[number].visible }))"""
        return list(self.page.evaluate(script))

    def layout(self, name: str) -> Any:
        return self.page.evaluate(f"plot._fullLayout.{name}")

    def lines(self) -> int:
        """That are there to be seen."""
        return int(self.page.locator("#plot .scatterlayer .trace").count())

    def column(self, number: int) -> list[str]:
        return list(
            self.page.locator(f"#results tbody tr > :nth-child({number})").all_inner_texts()
        )


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    found = Opened(browser, file)
    yield found
    found.context.close()
    # Whatever was done with it, and but for pictures that are inside.
    assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert found.complaints == []


def test_the_curves_are_drawn_from_the_file_alone(opened: Opened) -> None:
    kinds = {(trace["entry"], trace["kind"]) for trace in opened.traces()}
    labels = opened.page.locator(".legend button").all_inner_texts()
    good, bad = (labels.index(name) for name in ("good", "bad"))
    assert labels[-1] == "none (failed)"
    assert {(good, "mean"), (good, "band"), (good, "compared"), (bad, "cross")} <= kinds
    assert (bad, "mean") not in kinds
    # A run that broke ends in a cross where it was last seen: after 5 steps, at 0.2.
    cross = next(trace for trace in opened.traces() if trace["kind"] == "cross")
    assert cross["x"] == [5]


def test_a_press_in_the_legend_hides_a_series_and_another_shows_it(opened: Opened) -> None:
    button = opened.page.locator(".legend button", has_text="good")
    number = opened.page.locator(".legend button").all_inner_texts().index("good")
    plot, lines = opened.page.locator("#plot"), opened.lines()
    shown = {trace["entry"] for trace in opened.traces() if trace["visible"]}
    before = plot.screenshot()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    visible = {trace["entry"] for trace in opened.traces() if trace["visible"]}
    assert shown - visible == {number}
    assert opened.lines() < lines
    opened.page.mouse.move(0, 0)
    assert plot.screenshot() != before
    button.press("Enter")  # by keyboard as well
    assert button.get_attribute("aria-pressed") == "true"
    assert opened.lines() == lines


def test_names_stand_at_the_ends_of_curves_and_apart(opened: Opened) -> None:
    names = opened.page.locator("#plot .annotation-text", has_text=re.compile("good|near|poor"))
    boxes = sorted(
        (box["y"], box["height"]) for one in names.all() if (box := one.bounding_box()) is not None
    )
    assert len(boxes) == 3
    for (above, height), (below, _) in itertools.pairwise(boxes):
        assert above + height * 0.8 <= below


def test_two_presses_leave_one_series_alone(opened: Opened) -> None:
    opened.page.locator(".legend button", has_text="poor").dblclick()
    pressed = opened.page.locator('.legend button[aria-pressed="true"]').all_inner_texts()
    assert pressed == ["poor"]


def test_the_table_is_sorted_by_numbers_and_says_so(opened: Opened) -> None:
    header = opened.page.locator("#results th", has_text="test accuracy")
    assert header.get_attribute("aria-sort") is None
    best_first = [text.split()[0] for text in opened.column(1)]
    assert best_first[0] == "good"
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    values = [text.split()[0] for text in opened.column(2)]
    numbers = [float(value) for value in values if re.match(r"[\d.]+$", value)]
    assert numbers == sorted(numbers)
    assert len(numbers) == 4
    assert not re.match(r"[\d.]+$", values[-1])  # what has no number comes last in both directions
    other = opened.page.locator("#results th", has_text="configuration")
    other.locator("button").click()
    assert header.get_attribute("aria-sort") is None
    assert opened.column(1) == sorted(opened.column(1))


@pytest.mark.parametrize(("axis", "last"), [("seconds", 4), ("inner_grads", 400), ("step", 20)])
def test_curves_move_to_the_axis_that_is_chosen(opened: Opened, axis: str, last: int) -> None:
    opened.page.locator(f"input[name=axis][value={axis}]").check()
    means = [trace for trace in opened.traces() if trace["kind"] == "mean"]
    assert {trace["x"][-1] for trace in means} == {last}
    names = {"seconds": "seconds", "inner_grads": "inner gradients", "step": "outer steps"}
    assert opened.layout("xaxis.title.text") == names[axis]


def test_against_memory_there_are_points_of_runs(opened: Opened) -> None:
    opened.page.locator("input[name=axis][value=peak_memory_mb]").check()
    kinds = {trace["kind"] for trace in opened.traces()}
    assert "mean" not in kinds
    assert "single" in kinds


def test_another_metric_and_logarithmic_axes_are_a_choice_away(opened: Opened) -> None:
    opened.page.locator("#metric").select_option("outer_loss")
    mean = next(trace for trace in opened.traces() if trace["kind"] == "mean")
    assert mean["y"] == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5], rel=1e-4)
    opened.page.locator("#log-x").check()
    opened.page.locator("#log-y").check()
    assert opened.layout("xaxis.type") == opened.layout("yaxis.type") == "log"


def test_single_runs_and_bands_come_and_go(opened: Opened) -> None:
    def count(kind: str) -> int:
        return sum(trace["kind"] == kind for trace in opened.traces())

    single = count("single")
    opened.page.locator("#singles").check()
    assert count("single") == single + 9  # three seeds of three methods
    assert count("band") == 3
    opened.page.locator("#bands").uncheck()
    assert count("band") == 0


def test_a_hover_shows_the_values(opened: Opened) -> None:
    box = opened.page.locator("#plot .nsewdrag").first.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + box["height"] / 2)
    opened.page.wait_for_selector("#plot .hoverlayer text")
    assert "0.91" in opened.page.locator("#plot .hoverlayer").text_content()


def test_no_button_of_the_plot_sends_it_anywhere(opened: Opened) -> None:
    names = "[...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)"
    assert opened.page.evaluate(names) == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_a_label_with_tags_is_shown_with_its_tags(opened: Opened) -> None:
    assert opened.page.locator(".legend", has_text="<b>a</b></script><img src=x").count() == 1
    assert opened.page.locator("img[onerror]").count() == 0


def test_the_switch_turns_light_into_dark_and_back(opened: Opened) -> None:
    def page_and_line() -> tuple[str, str]:
        script = (
            "[getComputedStyle(document.body).backgroundColor, plot._fullData.at(-1).marker.color]"
        )
        back, line = opened.page.evaluate(script)
        return back, line

    light = page_and_line()
    opened.page.locator("#theme").click()
    dark = page_and_line()
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    opened.page.locator("#theme").click()
    assert page_and_line() == light


def test_a_dark_page_is_printed_on_white_paper(opened: Opened) -> None:
    opened.page.locator("#theme").click()
    ink = "[getComputedStyle(document.body).backgroundColor, plot._fullLayout.font.color]"
    dark = opened.page.evaluate(ink)
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate(ink) != dark
    assert opened.page.evaluate("isDark()") is False
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate(ink) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_boxes_of_tables_scrolls_sideways(
    browser: Any, file: Path, width: int, scheme: str
) -> None:
    found = Opened(browser, file, width, color_scheme=scheme)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll("main *")].filter((e) =>
        !e.closest(".scroll, .hidden, #plot")
        && e.getBoundingClientRect().right > innerWidth).length"""
    assert found.page.evaluate(outside) == 0
    assert found.complaints == []
    found.context.close()


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(opened: Opened) -> None:
    unnamed = """[...document.querySelectorAll("button, input, select")].filter((e) =>
        !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length)).length"""
    assert opened.page.evaluate(unnamed) == 0
    assert opened.page.evaluate("document.title") != ""
    reached = set()
    for _ in range(60):
        opened.page.keyboard.press("Tab")
        reached.add(
            opened.page.evaluate("document.activeElement.id || document.activeElement.name")
        )
    assert {"theme", "metric", "axis", "log-x", "bands", "singles"} <= reached


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crowd")
    page.write(crowd(folder / "runs", 46, broken=2), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def many(browser: Any, crowded: Path) -> Iterator[Opened]:
    found = Opened(browser, crowded)
    yield found
    found.context.close()
    assert found.complaints == []


def kinds(found: Opened) -> dict[str, set[int]]:
    """The entries of the legend by the kinds of their traces."""
    by_kind: dict[str, set[int]] = {}
    for trace in found.traces():
        by_kind.setdefault(trace["kind"], set()).add(trace["entry"])
    return by_kind


def test_of_many_methods_the_best_are_in_colour_and_the_others_in_grey(many: Opened) -> None:
    best, found = set(range(FRONT)), kinds(many)
    assert found["mean"] == found["band"] == found["compared"] == best
    assert found["quiet"] == set(range(48)) - best
    names = many.page.locator("#plot .annotation-text").all_text_contents()
    assert {"m45", "m41"} <= set(names)
    assert "m40" not in names


def test_a_name_that_is_pressed_comes_to_the_front_and_goes_back(many: Opened) -> None:
    button = many.page.locator(".legend button", has_text=re.compile(r"^m7$"))
    number = int(button.get_attribute("data-entry") or -1)
    button.click()
    assert number in kinds(many)["mean"]
    assert number not in kinds(many)["quiet"]
    button.click()
    assert number in kinds(many)["quiet"]
    many.page.locator("#pick-all").click()
    assert "quiet" not in kinds(many)
    many.page.locator("#pick-none").click()
    assert "mean" not in kinds(many)
    many.page.locator("#context").uncheck()
    assert many.traces() == []


def test_a_row_a_name_and_a_curve_are_lit_together(many: Opened) -> None:
    many.page.locator("#results tbody tr", has_text=re.compile("^m7")).first.hover()
    lit = many.page.evaluate(
        "[...document.querySelectorAll('.scatterlayer .lit')].map((g) => g.__data__[0].trace.name)"
    )
    assert lit == ["m7"]
    assert many.page.locator(".legend button.lit").all_inner_texts() == ["m7"]
    stroke = "getComputedStyle(document.querySelector('.scatterlayer .lit .js-line')).stroke"
    assert many.page.evaluate(stroke) != many.page.evaluate("colour('quiet')")
    many.page.mouse.move(0, 0)
    assert many.page.locator(".lit").count() == 0


def test_a_curve_in_grey_says_whose_it_is(many: Opened) -> None:
    place = many.page.evaluate(
        """(() => {
            const series = report.series.find(({ label }) => label === "m20");
            const mean = series.means.test_accuracy.step;
            const { xaxis, yaxis } = plot._fullLayout;
            const box = plot.getBoundingClientRect();
            const x = box.left + xaxis._offset + xaxis.l2p(series.grids[mean.grid].at(-1));
            return [x, box.top + yaxis._offset + yaxis.l2p(mean.mean.at(-1))];
        })()"""
    )
    many.page.mouse.move(place[0] - 4, place[1])
    many.page.mouse.move(*place)
    many.page.wait_for_selector("#plot .hoverlayer text")
    said = many.page.locator("#plot .hoverlayer").text_content()
    (lit,) = many.page.locator(".legend button.lit").all_inner_texts()
    assert lit in said
    assert abs(int(lit[1:]) - 20) <= 2  # curves here are a thousandth apart


def test_each_curve_has_a_small_plot_if_asked_for(many: Opened) -> None:
    many.page.locator("#small").check()
    plots = many.page.locator(".legend button svg.small .own")
    assert plots.count() == 48
    best, worst, broken = (plots.nth(number).get_attribute("d") for number in (0, 45, 47))
    assert len({best, worst, broken}) == 3
    assert best.count("L") == 3  # a line through four rows
    many.page.locator("#small").uncheck()
    assert plots.count() == 0


def test_each_task_has_a_plot_and_a_press_hides_a_method_in_all(
    browser: Any, tmp_path: Path
) -> None:
    page.write(grid(tmp_path / "runs", 4, 3), tmp_path / "page.html")
    found = Opened(browser, tmp_path / "page.html")
    assert found.page.locator("#plot .cartesianlayer > .subplot").count() == 4
    tops = [found.layout(f"yaxis{n}.range")[1] for n in ("", 2, 3, 4)]
    assert all(b == pytest.approx(100 * a, rel=0.01) for a, b in itertools.pairwise(tops))
    before = found.lines()
    found.page.locator(".legend button", has_text="m1").click()
    assert len(found.traces()) == 4 * 2 * 4  # a mean, two edges and a dot of two methods each
    assert found.lines() < before
    found.page.set_viewport_size({"width": 390, "height": 900})
    found.page.wait_for_timeout(300)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert found.complaints == []
    found.context.close()


def test_the_page_and_the_figure_have_one_range(opened: Opened) -> None:
    random, x = np.random.default_rng(0), np.linspace(0, 1, 12)
    cut = far = 0
    for trial in range(200):
        curves = [
            Curve(x[: random.integers(1, 13)], random.lognormal(0, random.choice([0.1, 3]), 12))
            for _ in range(random.integers(1, 9))
        ]
        curves = [Curve(one.x, one.y[: len(one.x)]) for one in curves]
        bands = [Band(one.x, one.y, one.y - 0.3, one.y * 2) for one in curves[:2]]
        behind = curves[5:]
        expected = scale(curves[:5], bands, behind)
        assert expected is not None
        plain = [
            [{"x": c.x.tolist(), "y": c.y.tolist()} for c in some] for some in (curves[:5], behind)
        ]
        edges = [
            [{"x": b.x.tolist(), "y": e.tolist()} for e in (b.low, b.high)] if b else []
            for b in bands
        ]
        arguments = ", ".join(map(json.dumps, (plain[0], edges, plain[1])))
        call = f"scaleOf({arguments}, false, false)"
        found = opened.page.evaluate(call)
        assert found["range"] == pytest.approx([expected.low, expected.high], rel=1e-9), trial
        assert (found["cut"], found["far"]) == (expected.cut, expected.far), trial
        cut, far = cut + expected.cut, far + bool(expected.far)
    assert cut > 10
    assert far > 10

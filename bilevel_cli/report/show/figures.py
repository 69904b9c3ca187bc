"""The curves of the metric as a figure for a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel_cli.errors import UsageError
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.costs import axes as axes_of_costs
from bilevel_cli.report.show.cells import words
from bilevel_cli.report.show.curves import axis_of, has_mean
from bilevel_cli.report.show.drawing import STYLE, check_suffix, drawing
from bilevel_cli.report.show.lineup import Lineup
from bilevel_cli.report.show.plots import (
    Traced,
    arrow,
    hides,
    last_point,
    name_ends,
    plot,
    traced,
)
from bilevel_cli.report.show.scale import Scale, scale
from bilevel_cli.report.show.terminal import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.3  # inches: a column of most templates
PAGE = 6.9  # inches: two columns, for small plots and for several tasks
HEIGHT = 2.2  # inches of the plot without its legend
FOOT = 0.4  # inches of the axis below a plot
ROW = 0.17  # inches of a row of the legend
SMALL = 0.84  # inches of the height of a small plot
COLUMNS, MANY = 5, 40  # how many small plots stand in a row: one more where there are many
PANEL = 1.9  # inches of the height of the plot of a task
LETTERS = 52  # how many letters of 8 pt fit into a row of the legend
KEY = 9  # how many letters the line and the gaps of an entry of the legend are wide
TITLE = 28  # letters above the plot of a task
BESIDE = 14  # letters of a name that stands beside its curve
NAME, SMALLEST = 18, 6.0  # letters above a small plot, and their size


def save(report: Report, path: Path) -> None:
    """Draws the metric against the cost at which runs are compared, with a band for each mean.

    A run that broke ends in a cross, and a dotted line stands where runs are compared. Names stand
    beside the ends of few curves, or above the plot. Of many configurations each has a small plot
    of its own; several tasks have a plot each.

    Args:
        report: The comparison.
        path: The file; its suffix is the format.

    Raises:
        UsageError: matplotlib is missing, the format is none of `drawing.SUFFIXES`, there is no
            metric, or the file cannot be written.
    """
    check_suffix("--figure", path)
    if not report.metric:
        raise UsageError("--figure needs a metric to draw, got runs that have not been evaluated.")
    with drawing("--figure", path) as figure:
        placed, several = traced(report)
        if len(placed.panels) > 1:
            _panels(figure, report, placed, several)
        elif placed.crowded:
            _small(figure, report, [several[number] for number in placed.members(0)])
        else:
            _one(figure, report, [several[number] for number in placed.members(0)])


def _one(figure: "Figure", report: Report, ranked: Sequence[Traced]) -> None:
    """All curves in one plot, their names beside their ends, or above where they are long."""
    figure.set_size_inches(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    shown = plot(axes, ranked, [], report.budget)
    _name_axes(axes, report)
    axes.locator_params(nbins=6)
    said = _left_out(ranked, shown)
    beside = has_mean(axis_of(report.budget)) and all(len(one.label) <= BESIDE for one in ranked)
    if shown and beside:
        name_ends(axes, ranked, shown, (HEIGHT - FOOT) * 72 / STYLE["font.size"])
        if without := [one.label for one in ranked if last_point(one) is None]:
            said.append(f"Without a curve: {', '.join(without)}.")
    else:
        _legend(figure, ranked, [arrow(one, shown) for one in ranked])
    _say(figure, *said)


def _small(figure: "Figure", report: Report, ranked: Sequence[Traced]) -> None:
    """A small plot of each configuration, with the best one in grey."""
    columns = COLUMNS + (len(ranked) > MANY)
    rows = -(-len(ranked) // columns)
    figure.set_size_inches(PAGE, SMALL * rows + 2 * FOOT)
    half = -(-len(ranked) // 2)
    lines = [
        [line for one in some for line in one.curves] for some in (ranked[:half], ranked[half:])
    ]
    shown = scale(lines[0], [], lines[1])
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(ranked):
            axes.set_axis_off()
            continue
        one = ranked[place]._replace(style=0)
        plot(axes, [one], [ranked[0]] if place else [], report.budget, shown)
        axes.locator_params(nbins=3)
        axes.tick_params(labelsize=SMALLEST, length=2, labelbottom=place + columns >= len(ranked))
        title = f"{place + 1}. {one.label}" if one.compared else one.label
        axes.set_title(shortened(title, NAME) + arrow(one, shown), loc="left", fontsize=SMALLEST)
        if one.compared and shown:
            _number(axes, one.compared[1], shown)
    figure.supxlabel(axes_of_costs()[axis_of(report.budget)], fontsize=STYLE["font.size"])
    figure.supylabel(words(report.metric), fontsize=STYLE["font.size"])
    best = shortened(ranked[0].label, LETTERS)
    said = (
        [f"Grey: {best}, the best. Numbers are those of the table."] if ranked[0].compared else []
    )
    _say(figure, *said, *_left_out(ranked, shown))


def _panels(figure: "Figure", report: Report, placed: Lineup, several: Sequence[Traced]) -> None:
    """A plot for each task, with one legend for all."""
    filled = [
        panel
        for panel in range(len(placed.panels))
        if any(last_point(several[number]) for number in placed.members(panel))
    ]
    columns = min(2 if len(filled) == 4 else 3, len(filled)) or 1
    rows = -(-len(filled) // columns) or 1
    figure.set_size_inches(PAGE, PANEL * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    said: list[str] = []
    for place, axes in enumerate(grid.flat):
        if place >= len(filled):
            axes.set_axis_off()
            continue
        own = placed.members(filled[place])
        ahead = [number for number in own if placed.entries[placed.entry[number]].front]
        behind = [several[number] for number in own if number not in ahead]
        front = [several[number] for number in ahead]
        part = report.part_of(report.configurations[own[0]])
        shown = plot(axes, front, behind, part.budget)
        said = said or _left_out(front, shown)
        axes.set_title(shortened(placed.panels[filled[place]], TITLE), loc="left", fontsize=8)
        axes.locator_params(nbins=5)
        _name_axes(axes, part)
        if place % columns and len({one.metric for one in report.parts.values()}) < 2:
            axes.set_ylabel("")
        if place + columns < len(filled):
            axes.set_xlabel("")
    firsts = {placed.entry[n]: several[n] for n in reversed(range(len(several)))}
    listed = [firsts[n] for n, one in enumerate(placed.entries) if one.front]
    _legend(figure, listed, [""] * len(listed))
    without = [placed.panels[panel] for panel in range(len(placed.panels)) if panel not in filled]
    grey = sum(not one.front for one in placed.entries)
    if grey:
        said.append(f"Grey: the {grey} others.")
    if without:
        said.append(f"Without {words(report.metric)}: {', '.join(without)}.")
    _say(figure, *said)


def _number(axes: "Axes", value: float, shown: Scale) -> None:
    """Writes the number of the table where the end of the curve is not."""
    top = value < (shown.low + shown.high) / 2
    looks: dict[str, Any] = {"fontsize": SMALLEST, "ha": "right", "va": "top" if top else "bottom"}
    axes.text(0.96, 0.94 if top else 0.06, f"{value:.3g}", transform=axes.transAxes, **looks)


def _left_out(several: Sequence[Traced], shown: Scale | None) -> list[str]:
    hidden = any(one.mean is not None and hides(one.mean, shown) for one in several)
    return ["Bands wider than the plot are left out."] if hidden else []


def _say(figure: "Figure", *lines: str) -> None:
    """Writes what a reader must know above the plots, or below them where a legend is above."""
    if lines:
        write = figure.supxlabel if figure.legends else figure.suptitle
        write("\n".join(lines), fontsize=STYLE["font.size"], x=0.01, ha="left")


def _name_axes(axes: "Axes", report: Report) -> None:
    axes.set_xlabel(axes_of_costs()[axis_of(report.budget)])
    axes.set_ylabel(words(report.metric))


def _legend(figure: "Figure", listed: Sequence[Traced], arrows: Sequence[str]) -> None:
    """A legend above all plots, which covers nothing, in rows from left to right."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    room = int(LETTERS * width / WIDTH)
    labels = [shortened(one.label, room - KEY) + a for one, a in zip(listed, arrows, strict=True)]
    longest = max(map(len, labels), default=0)
    columns = max(1, min(len(labels), room // (longest + KEY)))
    figure.set_size_inches(width, height + ROW * -(-len(labels) // columns))
    # matplotlib fills column after column: ranks are to be read along the rows.
    order = [n for first in range(columns) for n in range(first, len(labels), columns)]
    figure.legend(
        [Line2D([], [], **listed[n].looks) for n in order],
        [labels[n] for n in order],
        loc="outside upper left",
        ncols=columns,
        handlelength=3.2,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.1,
        labelspacing=0.25,
    )

"""Scores against the number of inner steps at test time: in words, as a table, and as a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain
from bilevel_cli.report.across.panels import looks_of_runs
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.step_sweep import StepSweep, Swept, step_sweeps
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show import cells, palette
from bilevel_cli.report.show.drawing import check_suffix, drawing
from bilevel_cli.report.show.terminal import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, PAGE, HEIGHT = 3.3, 6.9, 2.3  # inches: a column, two columns, and a plot
COLUMNS = 2  # plots in a row
FRONT = 8  # configurations in colour; those of others are grey
LETTERS, TITLE = 40, 44  # of a label in the legend, and above a plot
GREY, MARK = "#c9c9c9", "#6b6b66"

Numbers = NDArray[np.float64]
Table = list[tuple[str, ...]]


def sentence(found: StepSweep) -> str:
    """What the table and the curves show."""
    return (
        f"{plain(cells.words(found.score)).capitalize()} after other numbers of inner steps than "
        "in training (test_steps), where runs are compared; * after as many as in training."
    )


def table(found: StepSweep, sign: str = "+-") -> Table:
    """A row for each configuration, a column for each number of steps, with `sign` in intervals."""
    heads = [f"{count} step{'s' * (count != 1)}" for count in found.counts]
    rows = [
        (
            one.row.configuration.label,
            "-" if one.trained is None else str(one.trained),
            *(_cell(one, count, sign) for count in found.counts),
            str(found.best(one)),
        )
        for one in found.swept
    ]
    return [("configuration", "trained with", *heads, "best after"), *rows]


def _cell(one: Swept, count: int, sign: str) -> str:
    if count not in one.estimates:
        return "-"
    return f"{cells.estimate(one.estimates[count], sign)}{' *' * (count == one.trained)}"


def across(counts: Sequence[float]) -> Numbers:
    """Where numbers of steps stand on the axis: by the logarithm of one more, which 0 has too."""
    return np.log1p(np.asarray(counts, dtype=np.float64))


def save(report: Report, path: Path) -> None:
    """Draws the score against the number of inner steps at test time, a plot for each task.

    Bands are 95 % intervals over seeds. A dotted line stands at the inner steps of training.

    Args:
        report: The comparison.
        path: The file; its suffix is the format.

    Raises:
        UsageError: matplotlib is missing, the format is none of `drawing.SUFFIXES`, no run has such
            scores, or the file cannot be written.
    """
    check_suffix("--steps", path)
    found = step_sweeps(report)
    if not found:
        raise UsageError(
            "--steps needs scores after several numbers of inner steps, got runs without any. "
            "Run them with test_steps=[0,1,5,50], say."
        )
    styles = looks_of_runs(report)
    with drawing("--steps", path) as figure:
        columns = min(COLUMNS, len(found))
        rows = -(-len(found) // columns)
        figure.set_size_inches(WIDTH if columns == 1 else PAGE, HEIGHT * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(found) :]:
            axes.set_axis_off()
        for axes, (name, one) in zip(grid.flat, found.items(), strict=False):
            _draw(axes, one, styles)
            axes.set_title(shortened(name, TITLE), loc="left", fontsize=8)


def _draw(axes: "Axes", found: StepSweep, styles: dict[Run, int]) -> None:
    for place, one in enumerate(found.swept):
        style = styles[one.row.configuration.runs[0]]
        front, dash = place < FRONT, palette.style(style).dash
        counts, estimates = list(one.estimates), list(one.estimates.values())
        x, colour = across(counts), palette.colour(style) if front else GREY
        looks: dict[str, Any] = {"ls": (0, dash) if dash else "solid", "zorder": 3 - place / FRONT}
        label = shortened(one.row.configuration.label, LETTERS) if front else None
        axes.plot(x, [e.value for e in estimates], color=colour, label=label, ms=3, **looks)
        axes.plot(x, [e.value for e in estimates], "o", color=colour, ms=3, zorder=3)
        if front:
            low, high = [e.low for e in estimates], [e.high for e in estimates]
            axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
        if one.trained in one.estimates:
            at = (across([one.trained])[0], one.estimates[one.trained].value)
            ring: dict[str, Any] = {"mfc": "none", "mec": colour, "ms": 7, "zorder": 4}
            axes.plot(*at, "o", **ring)
    for count in found.trained:
        axes.axvline(across([count])[0], color=MARK, lw=0.7, ls=(0, (1, 2)), zorder=1)
    shown = spaced(found.counts)
    axes.set_xticks(across(shown), [str(count) for count in shown])
    axes.minorticks_off()
    axes.set_xlabel("inner steps at test time (dotted: in training)")
    axes.set_ylabel(plain(cells.words(found.score)))
    axes.legend(loc="best", fontsize=7)


def spaced(counts: Sequence[int], room: float = 0.07) -> list[int]:
    """The numbers of steps whose labels fit below the axis, its ends first.

    Args:
        counts: Ascending.
        room: What a label needs, as a part of the axis.
    """
    x = across(counts)
    needed = room * (x[-1] - x[0])
    kept, last = [counts[-1]], x[0]
    for count, place in zip(counts[1:-1], x[1:-1].tolist(), strict=True):
        if place - last >= needed and x[-1] - place >= needed:
            kept.append(count)
            last = place
    return sorted({counts[0], *kept})

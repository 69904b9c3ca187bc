"""Mean ranks and performance profiles over several tasks, as a figure for a paper."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel_cli.errors import UsageError
from bilevel_cli.report.across import normalised
from bilevel_cli.report.across.overall import Overall, overall
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show import palette, terminal
from bilevel_cli.report.show.drawing import check_suffix, drawing
from bilevel_cli.report.show.lineup import lineup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 6.9, 2.2  # inches: two columns of most templates
ROW = 0.17  # inches of a configuration beside its rank
LETTERS = 24  # of a label
FRONT = 8  # profiles in colour; those of others are grey
BANDS = 2  # how many profiles have one: more would hide each other


def save(report: Report, path: Path) -> None:
    """Draws the mean ranks with their critical difference, and the profiles beside them.

    Args:
        report: The comparison of runs of several tasks.
        path: The file; its suffix is the format.

    Raises:
        UsageError: matplotlib is missing, the format is none of `drawing.SUFFIXES`, there are no
            two tasks with two configurations, or the file cannot be written.
    """
    check_suffix("--profile", path)
    found = overall(report)
    if found is None or len(found.ranked) < 2:
        raise UsageError(
            "--profile needs two configurations that have runs of all tasks, of which there are "
            f"two at least; got {len(found.ranked) if found else 0} in "
            f"{max(1, len(report.parts))} task{'s' * (len(report.parts) > 1)}."
        )
    with drawing("--profile", path) as figure:
        figure.set_size_inches(WIDTH, max(HEIGHT, 0.6 + ROW * len(found.ranked)))
        left, right = figure.subplots(1, 2)
        styles = looks(report, found)
        _draw_ranks(left, found, styles)
        _draw_profiles(right, found, styles)


def looks(report: Report, found: Overall) -> dict[str, int]:
    """The number in the palette of each competitor, by its label: that of its curves."""
    of_run = looks_of_runs(report)
    firsts = {one.label: next(iter(one.rows.values())) for one in found.competitors}
    return {label: of_run[row.configuration.runs[0]] for label, row in firsts.items()}


def looks_of_runs(report: Report) -> dict[Run, int]:
    """The number in the palette of the configuration of each run."""
    placed = lineup(report)
    return {run: placed.style(n) for n, one in enumerate(report.configurations) for run in one.runs}


def _draw_ranks(axes: "Axes", found: Overall, styles: dict[str, int]) -> None:
    shown, verdict = found.ranked, found.verdict
    assert verdict is not None, "two configurations are ranked"
    best = shown[0].rank
    axes.axvspan(best, min(best + verdict.critical, len(shown)), color="#ececec", lw=0)
    for place, one in enumerate(shown):
        colour = palette.colour(styles[one.label])
        axes.plot(one.rank, place, "o", color=colour, markersize=5, clip_on=False)
    axes.set_yticks(range(len(shown)), [terminal.shortened(one.label, LETTERS) for one in shown])
    axes.invert_yaxis()
    axes.set_xlim(0.9, len(shown) + 0.1)
    axes.grid(axis="y", visible=False)
    reach = f"; grey: critical difference {verdict.critical:.2f}"
    said = f"mean rank over {len(found.tasks)} tasks"
    axes.set_xlabel(said + (reach if math.isfinite(verdict.critical) else ""))


def _draw_profiles(axes: "Axes", found: Overall, styles: dict[str, int]) -> None:
    thresholds = normalised.thresholds([found.scaled(one) for one in found.ranked])
    for place, one in enumerate(found.ranked):
        parts, low, high = normalised.profile(found.scaled(one), thresholds)
        label = terminal.shortened(one.label, LETTERS)
        if place >= FRONT:
            axes.plot(thresholds, parts, color="#c9c9c9", lw=0.8, zorder=1)
            continue
        dash = palette.style(styles[one.label]).dash
        colour = palette.colour(styles[one.label])
        lines: dict[str, Any] = {
            "color": colour,
            "ls": (0, dash) if dash else "solid",
            "zorder": 3 - place / FRONT,
        }
        axes.plot(thresholds, parts, label=label, **lines)
        if place < BANDS:
            some = (parts > 0) & (parts < 1)
            axes.fill_between(thresholds, low, high, where=some, color=colour, alpha=0.14, lw=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("normalised score")
    axes.set_ylabel("part of runs above")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=3.2)

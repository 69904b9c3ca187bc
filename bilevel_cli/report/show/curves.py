"""Curves: a number of one run against a cost, and the mean of several runs with its interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # scipy.stats would take half a second to import

from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.measure import Course
from bilevel_cli.report.compare.statistics import LEVEL
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import ENDED_BADLY

Numbers = NDArray[np.float64]

# The costs that a curve is drawn against, and what an axis calls them.
AXES = {
    "step": "outer steps",
    "seconds": "seconds",
    "inner_grads": "inner gradients",
    "peak_memory_mb": "peak memory (MB)",
}

# It hardly grows in a run, and seeds differ in it by accident: there is no grid for a mean.
POINTWISE = ("peak_memory_mb",)


EARLY, WORTH = 0.1, 2  # of `window`; assets/page.js has the same


class Curve(NamedTuple):
    """What one run measured.

    Attributes:
        x: The cost, strictly increasing.
        y: The number; NaN where it was not finite.
    """

    x: Numbers
    y: Numbers


class Band(NamedTuple):
    """A mean over runs, and Student's interval for it.

    Attributes:
        x: A grid that all the curves reach.
        mean: Of the curves there; NaN where one of them is.
        low: Lower end of the interval; that of one curve alone is the curve.
        high: Upper end.
    """

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


def curve(course: Course | None, axis: str) -> Curve:
    """A column against a cost; of rows at the same cost, the last.

    Args:
        course: The column, or None for a run that has no such column.
        axis: One of `AXES`.
    """
    if course is None:
        return Curve(np.empty(0), np.empty(0))
    known = np.isfinite(course.costs[axis])
    x, y = course.costs[axis][known], course.values[known]
    if (np.diff(x) > 0).all():
        return Curve(x, y)
    x, last = np.unique(x[::-1], return_index=True)
    return Curve(x, y[::-1][last])


def in_mean(report: Report) -> set[str]:
    """The names of the runs that curves average: those in the means of the table.

    Of a configuration that has none there, all that are whole: they may have another number.
    """
    names: set[str] = set()
    for row in report.rows:
        whole = (run.name for run in row.configuration.runs if run.status not in ENDED_BADLY)
        names.update(row.values or whole)
    return names


def broken(report: Report) -> list[Run]:
    """The runs of its configurations that broke."""
    every = (run for one in report.configurations for run in one.runs)
    return [run for run in every if run.status in ENDED_BADLY]


def band(curves: Sequence[Curve], points: int) -> Band | None:
    """The mean of curves where all of them are, each read between its rows on a straight line.

    The interval is mean +- t(0.975, n - 1) s / sqrt(n), at each point by itself.

    Args:
        curves: One for each run.
        points: That the grid has at most.

    Returns:
        None where there is no point that all of them reach.
    """
    if not curves or not all(len(one.x) for one in curves):
        return None
    first, last = max(one.x[0] for one in curves), min(one.x[-1] for one in curves)
    if first > last:
        return None
    # Of the rows themselves: at the steps that runs share, means of what their tables have.
    rows = [one.x[spread(len(one.x), points)] for one in curves]
    grid = np.unique(np.concatenate([*rows, [first, last]]))
    grid = grid[(first <= grid) & (grid <= last)]
    grid = grid[spread(len(grid), points)]
    values = np.stack([np.interp(grid, one.x, one.y) for one in curves])
    count, mean = len(curves), values.mean(0)
    half = np.zeros_like(mean)
    if count > 1:
        quantile = float(stdtrit(count - 1, (1 + LEVEL) / 2))
        half = quantile * values.std(0, ddof=1) / np.sqrt(count)
    return Band(grid, mean, mean - half, mean + half)


def end(one: Curve) -> tuple[float, float] | None:
    """The last point with a finite number."""
    finite = np.flatnonzero(np.isfinite(one.y))
    return (float(one.x[finite[-1]]), float(one.y[finite[-1]])) if len(finite) else None


def window(curves: Sequence[Curve], bands: Sequence[Band] = ()) -> tuple[float, float] | None:
    """The vertical range in which curves are told apart; None without a number.

    The first tenth may leave it, where the fall from a bad start, or the rise, would take more than
    half of the height. Bands widen it by at most half on either side: that of two runs is 25 times
    as wide as their difference.

    Args:
        curves: What is to be compared.
        bands: Around them.
    """
    x, y = _joined([one.x for one in curves]), _joined([one.y for one in curves])
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if not len(y):
        return None
    after = x.min() + EARLY * np.ptp(x)
    late = y[x >= after]
    # Not where rows are so few that the line to the next one would go as well.
    near = x[x >= after].min() <= after + EARLY * np.ptp(x)
    cut = bool(near and np.ptp(y) > WORTH * np.ptp(late) > 0)
    low, high = (float(end) for end in (np.min(late if cut else y), np.max(late if cut else y)))
    edges = _joined([e[one.x >= after] if cut else e for one in bands for e in one[2:]])
    edges = edges[np.isfinite(edges)]
    height = high - low
    low = max(edges.min(initial=low), low - height / 2)
    high = min(edges.max(initial=high), high + height / 2)
    room = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
    return float(low - room), float(high + room)


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.empty(0), *parts])


def spread(length: int, count: int) -> NDArray[np.intp]:
    """At most `count` >= 2 positions of `length`, evenly spaced, both ends among them."""
    if length <= count:
        return np.arange(length)
    return np.linspace(0, length - 1, count).round().astype(np.intp)

"""Curves: a number of one run against a cost, and the mean of several runs with its interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.compare.comparison import UNBOUNDED, Budget, Report
from bilevel_cli.report.compare.measure import Course
from bilevel_cli.report.compare.statistics import bounded, location
from bilevel_cli.report.costs import STEP, axes, cost_of
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import ENDED_BADLY

Numbers = NDArray[np.float64]

LARGEST = 1e150  # number that is drawn: the square of a larger one is infinite, and so is a range


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
        mean: The mean of the curves there; NaN where one of them is.
        low: The lower end of the interval; of one curve alone, the curve itself.
        high: The upper end, likewise.
    """

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


def curve(course: Course | None, axis: str) -> Curve:
    """A column against a cost. Of several rows at one cost, the last one counts.

    Args:
        course: The column; None where a run does not have it, which gives an empty curve.
        axis: The column of the cost.
    """
    if course is None:
        return Curve(np.empty(0), np.empty(0))
    known = np.isfinite(course.costs[axis])
    x, y = course.costs[axis][known], course.values[known]
    if (np.diff(x) > 0).all():
        return Curve(x, y)
    x, last = np.unique(x[::-1], return_index=True)
    return Curve(x, y[::-1][last])


def axis_of(budget: Budget) -> str:
    """The column of the cost that curves are drawn against first."""
    return budget.column if budget.column in axes() else STEP


def has_mean(axis: str) -> bool:
    """Whether a mean of curves against this cost says anything."""
    return not cost_of(axis).peak


def in_mean(report: Report) -> set[str]:
    """The names of the runs that mean curves average: those in the means of the table.

    A configuration may have no run there, as for lack of the metric. Its curves average all runs
    that did not break, since curves of another metric may be drawn.
    """
    names: set[str] = set()
    for row in report.rows:
        whole = (run.name for run in row.configuration.runs if run.status not in ENDED_BADLY)
        names.update(row.values or whole)
    return names


def broken(report: Report) -> list[Run]:
    """The runs that broke, in the order of their configurations."""
    every = (run for one in report.configurations for run in one.runs)
    return [run for run in every if run.status in ENDED_BADLY]


def band(
    curves: Sequence[Curve], points: int, within: tuple[float, float] = UNBOUNDED
) -> Band | None:
    """The mean of curves over the range that all of them have, with its interval.

    Between its rows a curve is a straight line. At each point of the grid, the interval is that of
    the table.

    Args:
        curves: A curve for each run.
        points: The most points that the grid may have.
        within: The least and the most that the number can be.

    Returns:
        None where no point is in the range of all curves.
    """
    if not curves or not all(len(one.x) for one in curves):
        return None
    first, last = max(one.x[0] for one in curves), min(one.x[-1] for one in curves)
    if first > last:
        return None
    # The grid consists of rows: at steps that runs share, means are those of their tables.
    rows = [one.x[spread(len(one.x), points)] for one in curves]
    grid = np.unique(np.concatenate([*rows, [first, last]]))
    grid = grid[(first <= grid) & (grid <= last)]
    grid = grid[spread(len(grid), points)]
    values = np.stack([np.interp(grid, one.x, one.y) for one in curves])
    if len(curves) == 1:
        return Band(grid, values[0], values[0], values[0])
    found = location(values.T)
    return Band(grid, found.value, *bounded(found, *within))


def end(one: Curve) -> tuple[float, float] | None:
    """The last point with a finite number; None without any."""
    finite = np.flatnonzero(np.isfinite(one.y))
    return (float(one.x[finite[-1]]), float(one.y[finite[-1]])) if len(finite) else None


def spread(length: int, count: int) -> NDArray[np.intp]:
    """At most `count` >= 2 positions of `length`, evenly spaced, both ends among them."""
    if length <= count:
        return np.arange(length)
    return np.linspace(0, length - 1, count).round().astype(np.intp)

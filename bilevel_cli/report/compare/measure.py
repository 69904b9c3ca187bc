"""What a run had achieved when it reached a budget, and what it had spent by then."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilevel_cli.report.compare.comparison import END, Budget
from bilevel_cli.report.costs import STEP, columns, cost_of
from bilevel_cli.report.read.runs import Run

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Course:
    """A column of a run, and what had been spent at each of its values.

    Attributes:
        values: The column, a number for each of its rows; NaN where it was not finite.
        costs: For each cost, by column, a number for each row; NaN where it is unknown.
    """

    values: Numbers
    costs: dict[str, Numbers]


@dataclass(frozen=True)
class Point:
    """The metric of a run where it is compared, and what had been spent by then."""

    value: float
    costs: dict[str, float]


def course(run: Run, name: str) -> Course | None:
    """A column of eval.csv, or else of train.csv, with costs; None where a run does not have it.

    An evaluation knows its step and its seconds. Its other costs come from the rows of train.csv
    before and after it: a sum grows in proportion to the steps between the two, and a peak is that
    of the row after it.
    """
    table = _table(run, name)
    if table is None or not len(table):
        return None
    steps = _numbers(table, STEP)
    costs = {
        cost: _numbers(table, cost) if cost in table else _spent(run.train, cost, steps)
        for cost in columns()
    }
    return Course(_numbers(table, name), costs)


def at_start(run: Run, name: str) -> float:
    """A column of a run at step 0; NaN where it has none there."""
    table = _table(run, name)
    if table is None or not len(table) or _numbers(table, STEP)[0] != 0:
        return np.nan
    return float(_numbers(table, name)[0])


def point(run: Run, course: Course, budget: Budget, validation: str | None = None) -> Point | None:
    """The last value within a budget, or the one where a validation column is best.

    Args:
        run: The run.
        course: The course of its metric.
        budget: What it may have spent.
        validation: A column that selects among the values within the budget; None for the last.

    Returns:
        None where nothing is within the budget, or no finite number is there.
    """
    within = len(course.values)
    if budget.column != END:
        if budget.limit is None:
            return None
        over = np.flatnonzero(~(course.costs[budget.column] <= budget.limit))
        within = int(over[0]) if len(over) else within
    if not within:
        return None
    place: int | None = within - 1
    if validation is not None:
        place = _best(run, validation, course.costs[STEP][:within])
    if place is None or not np.isfinite(course.values[place]):
        return None
    costs = {name: float(spent[place]) for name, spent in course.costs.items()}
    return Point(float(course.values[place]), costs)


def is_higher_better(name: str, runs: Sequence[Run]) -> bool:
    """Whether more of a score is better, as the runs that have it say."""
    patterns = {pattern for run in runs for pattern in run.higher_is_better if has(run, name)}
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def bounds(courses: Iterable[Course], higher: bool) -> tuple[float, float]:
    """The least and the most that a score can be, as far as all of its values tell.

    It is not below 0 where it never was. One of which more is better ends at 1 where it was in
    [0, 1] throughout, as an accuracy is; a loss may become larger.

    Args:
        courses: The score in each run.
        higher: Whether more of it is better.
    """
    known = (one.values[np.isfinite(one.values)] for one in courses)
    ends = [(float(one.min()), float(one.max())) for one in known if len(one)]
    least, most = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (-1.0, 1.0)
    if least < 0:
        return -np.inf, np.inf
    return 0.0, 1.0 if higher and most <= 1 else np.inf


def has(run: Run, name: str) -> bool:
    """Whether a run has a column of this name in one of its tables."""
    return name in run.evals or name in run.train


def _best(run: Run, validation: str, steps: Numbers) -> int | None:
    """The first of `steps` at which a column was best, as a position; None where it has no number.

    The column counts at each step as its last row up to then has it.
    """
    table = _table(run, validation)
    if table is None or not len(table):
        return None
    values = _numbers(table, validation)
    rows = np.searchsorted(_numbers(table, STEP), steps, side="right") - 1
    known = np.where(rows >= 0, values[rows], np.nan)
    if np.isnan(known).all():
        return None
    return int(np.nanargmax(known if is_higher_better(validation, [run]) else -known))


def _table(run: Run, name: str) -> pd.DataFrame | None:
    return next((table for table in (run.evals, run.train) if name in table), None)


def _numbers(table: pd.DataFrame, name: str) -> Numbers:
    # Not table[name], which takes ten times as long: of thousands of runs, most of the time.
    return table.to_numpy(dtype=np.float64)[:, table.columns.get_loc(name)]


def _spent(train: pd.DataFrame, cost: str, steps: Numbers) -> Numbers:
    """A cost at some steps, from the rows of train.csv around them."""
    if cost not in train:
        return np.full(len(steps), np.nan)
    at, spent = _numbers(train, STEP), _numbers(train, cost)
    known = ~(np.isnan(at) | np.isnan(spent))
    at, spent = at[known], spent[known]
    if not len(at):
        return np.full(len(steps), np.nan)
    if cost_of(cost).peak:
        return spent[np.minimum(np.searchsorted(at, steps), len(at) - 1)]
    return np.interp(steps, np.concatenate(([0.0], at)), np.concatenate(([0.0], spent)))

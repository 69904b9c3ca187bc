"""Scores after numbers of inner steps other than that of training, which `test_steps` adds."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bilevel_cli.report.compare.comparison import Estimate, Report, Row
from bilevel_cli.report.compare.estimates import student
from bilevel_cli.report.compare.measure import Course, bounds, course, is_higher_better
from bilevel_cli.report.costs import STEP
from bilevel_cli.vocabulary import TEST_STEPS

COLUMN = re.compile(rf"{TEST_STEPS}(\d{{1,18}})_(.+)")
MOST = 10**9  # inner steps of a training that are believed

Columns = dict[str, dict[int, str]]  # by the score, and by the number of steps


@dataclass(frozen=True, eq=False)
class Swept:
    """A configuration after each number of inner steps.

    Attributes:
        row: Its row in the report.
        trained: The inner steps of its training; None where they are unknown.
        values: For each number of steps, ascending, the score of each run in the mean of the row,
            by the name of the run; without runs that have no number there.
        estimates: The means of these, over runs; without numbers of steps that no run has.
    """

    row: Row
    trained: int | None
    values: dict[int, dict[str, float]]
    estimates: dict[int, Estimate]


@dataclass(frozen=True, eq=False)
class StepSweep:
    """One score of all configurations against the number of inner steps at test time.

    Attributes:
        score: The score, such as "test_accuracy".
        higher: Whether more of it is better.
        counts: The numbers of steps that any configuration has, ascending.
        swept: The configurations that have any, the best row of the report first.
    """

    score: str
    higher: bool
    counts: list[int]
    swept: list[Swept]

    @property
    def trained(self) -> list[int]:
        """The inner steps of trainings, each number once, ascending."""
        return sorted({one.trained for one in self.swept if one.trained is not None})

    def best(self, one: Swept) -> int:
        """After how many steps the mean of a configuration is best; of several, the least."""
        means = {count: found.value for count, found in one.estimates.items()}
        return (max if self.higher else min)(means, key=means.__getitem__)


@lru_cache(maxsize=1)  # of one task: its outputs and those of its runs show it
def step_sweep(report: Report) -> StepSweep | None:
    """The sweep of the runs of one task; None where no run has such scores.

    Its score is that of the report's metric where runs have it, and else their first one. Each run
    counts where the report compares it.

    Args:
        report: The comparison of one task.
    """
    columns = _columns(
        str(name)
        for row in report.rows
        for run in row.configuration.runs
        for name in run.evals.columns
    )
    if not columns:
        return None
    score = _score(report.metric, columns)
    own = dict(sorted(columns[score].items()))
    higher = is_higher_better(next(iter(own.values())), report.runs)
    if score in (report.metric, _parted(report.metric)):
        higher = report.higher  # which --higher or --lower may have said
    courses = {
        (run.name, count): line
        for row in report.rows
        for run in row.configuration.runs
        if run.name in row.values
        for count, name in own.items()
        if (line := course(run, name)) is not None
    }
    within = bounds(courses.values(), higher)
    every = [_swept(row, own, courses, within, report.iqm) for row in report.rows]
    swept = [one for one in every if one.estimates]
    counts = sorted({count for one in swept for count in one.estimates})
    return StepSweep(score, higher, counts, swept) if swept else None


@lru_cache(maxsize=1)  # of one report: several outputs show them
def step_sweeps(report: Report) -> dict[str, StepSweep]:
    """The sweeps of a report by the names of its tasks; that of one task alone by ""."""
    every = {name: step_sweep(part) for name, part in (report.parts or {"": report}).items()}
    return {name: found for name, found in every.items() if found is not None}


def numbers(report: Report) -> dict[int, dict[str, float]]:
    """What tables for other programs say of the sweeps of a report, by the id of its rows.

    The means have the names of their columns in eval.csv, and the ends of their intervals these
    names with `_low` and `_high` behind them.
    """
    return {
        id(one.row): {
            f"{TEST_STEPS}{count}_{sweep.score}{end}": value
            for count, found in one.estimates.items()
            for end, value in (("", found.value), ("_low", found.low), ("_high", found.high))
        }
        for sweep in step_sweeps(report).values()
        for one in sweep.swept
    }


def of_runs(report: Report) -> dict[str, dict[str, float]]:
    """The scores of the sweep of one task by the names of runs and of their columns in eval.csv."""
    found: dict[str, dict[str, float]] = {}
    sweep = step_sweep(report)
    if sweep is None:
        return found
    for one in sweep.swept:
        for count, values in one.values.items():
            for name, value in values.items():
                found.setdefault(name, {})[f"{TEST_STEPS}{count}_{sweep.score}"] = value
    return found


def _columns(names: Iterable[str]) -> Columns:
    found: Columns = {}
    for name in dict.fromkeys(names):
        if match := COLUMN.fullmatch(name):
            found.setdefault(match[2], {})[int(match[1])] = name
    return found


def _parted(metric: str) -> str:
    """The score in the name of such a column; "" of another one."""
    match = COLUMN.fullmatch(metric)
    return match[2] if match else ""


def _score(metric: str, columns: Columns) -> str:
    wanted = (metric, _parted(metric))
    return next((name for name in wanted if name in columns), next(iter(columns)))


def _swept(
    row: Row,
    own: Mapping[int, str],
    courses: Mapping[tuple[str, int], Course],
    within: tuple[float, float],
    iqm: bool,
) -> Swept:
    values: dict[int, dict[str, float]] = {}
    for count in own:
        known = {
            name: _at(courses[name, count], spent[STEP])
            for name, spent in row.spent.items()
            if (name, count) in courses
        }
        known = {name: value for name, value in known.items() if np.isfinite(value)}
        if known:
            values[count] = known
    estimates = {n: student(list(some.values()), iqm, within) for n, some in values.items()}
    return Swept(row, _trained(row), values, estimates)


def _at(line: Course, step: float) -> float:
    """The last value up to an outer step; NaN where there is none."""
    before = np.flatnonzero(line.costs[STEP] <= step)
    return float(line.values[before[-1]]) if len(before) else np.nan


def _trained(row: Row) -> int | None:
    steps = {run.settings.get("inner_steps") for run in row.configuration.runs}
    found = steps.pop() if len(steps) == 1 else None
    known = isinstance(found, int) and not isinstance(found, bool) and 0 < found < MOST
    return found if known else None

"""From runs to a comparison: a row for each configuration, at one budget, with its ties."""

from collections import Counter
from dataclasses import replace

import numpy as np

from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare import statistics
from bilevel_cli.report.compare.comparison import (
    BEST,
    END,
    NO_NUMBER,
    TIE,
    TOO_FEW,
    TOO_LARGE,
    Budget,
    Report,
    Row,
)
from bilevel_cli.report.compare.configurations import Configuration, configurations
from bilevel_cli.report.compare.fairness import unfair
from bilevel_cli.report.compare.measure import Course, Point, course, is_higher_better, point
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.compare.statements import statements
from bilevel_cli.report.costs import columns
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import COMPLETED, MISSING, WITHOUT_A_NUMBER


def compare(runs: list[Run], question: Question) -> Report:
    """The comparison of some runs that answers a question.

    Raises:
        UsageError: The question names what the runs do not have, or its answer would be biased.
    """
    groups = configurations(runs, question.group_by)
    metric = question.metric_of(runs)
    higher = is_higher_better(metric, runs) if question.higher is None else question.higher
    courses = {run: course(run, metric) for group in groups for run in group.runs}
    budget = question.budget
    if budget.limit is None:
        budget = replace(budget, limit=_common(budget, groups, courses))
    statistic = statistics.interquartile_mean if question.iqm else statistics.mean
    with np.errstate(over="ignore", invalid="ignore"):  # scores may be on their way to infinity
        rows = [_row(group, courses, budget, question) for group in groups]
        rows = _marked(rows, higher, statistic)
    report = Report(runs, groups, rows, metric, higher, budget)
    report.statements.extend(statements(report, question, _ended_before(budget, rows, courses)))
    damaged = (line for run in runs for line in run.warnings)
    report.warnings.extend(map(plain, (*unfair(groups), *damaged)))
    return report


def _common(
    budget: Budget, groups: list[Configuration], courses: dict[Run, Course | None]
) -> float | None:
    """The largest limit that all configurations reached; of a peak, the least in which all fit.

    A configuration reached what all of its completed runs did. Where none has completed yet, it
    reached what the farthest of its runs did.
    """
    if budget.column == END:
        return None
    reached = []
    for group in groups:
        completed, unfinished = list[float](), list[float]()
        for run in group.runs:
            line = courses[run]
            if run.status in WITHOUT_A_NUMBER or line is None:
                continue
            spent = float(line.costs[budget.column][-1])
            if np.isfinite(spent):
                (completed if run.status == COMPLETED else unfinished).append(spent)
        if completed:
            reached.append(max(completed) if budget.peak else min(completed))
        elif unfinished:
            reached.append(max(unfinished))
    if not reached:
        return None
    return max(reached) if budget.peak else min(reached)


def _row(
    group: Configuration,
    courses: dict[Run, Course | None],
    budget: Budget,
    question: Question,
) -> Row:
    counts = Counter(run.status for run in group.runs if run.status != COMPLETED)
    points: dict[str, Point] = {}
    for run in group.runs:
        line = courses[run]
        if run.status in WITHOUT_A_NUMBER or not _arrived(run, line, budget):
            continue
        found = point(run, line, budget, question.validation) if line else None
        if found is not None:
            points[run.name] = found
        elif run.status == COMPLETED:
            counts[TOO_LARGE if line and budget.peak else NO_NUMBER] += 1
    values = {name: found.value for name, found in points.items()}
    estimate = statistics.robust if question.iqm else statistics.student
    costs = {
        name: float(np.mean([found.costs[name] for found in points.values()]))
        for name in columns()
        if points
    }
    return Row(group, values, estimate(list(values.values())), "", dict(counts), costs)


def _arrived(run: Run, line: Course | None, budget: Budget) -> bool:
    """Whether a run may be in the mean: it completed, or it reached the budget.

    Where runs are compared at their ends, or within a peak, an unfinished run may not: it has not
    come to its end, and may take more memory yet. A run without a manifest may, since nobody knows
    whether it completed.
    """
    if run.status == COMPLETED:
        return True
    if budget.column == END or budget.peak:
        return run.status == MISSING
    if line is None or budget.limit is None:
        return False
    return bool(line.costs[budget.column][-1] >= budget.limit)


def _marked(rows: list[Row], higher: bool, statistic: statistics.Statistic) -> list[Row]:
    """The rows in the order of `Report.rows`, with their marks.

    A row is tied with the best where the interval of their difference contains 0.
    """
    sign = -1 if higher else 1
    some = sorted((row for row in rows if row.values), key=lambda row: sign * row.estimate.value)
    none = [row for row in rows if not row.values]
    if len(rows) < 2 or not some:
        return [*some, *none]
    best, *others = some
    marked = [replace(best, mark=BEST)]
    for row in others:
        interval = statistics.difference(_by_seed(best), _by_seed(row), statistic)
        if interval is None:
            marked.append(replace(row, mark=TOO_FEW))
        else:
            apart = interval[0] > 0 or interval[1] < 0
            marked.append(replace(row, mark="" if apart else TIE))
    return [*marked, *none]


def _ended_before(budget: Budget, rows: list[Row], courses: dict[Run, Course | None]) -> list[str]:
    """The labels of configurations with a run in the mean that ended before the budget."""
    if budget.limit is None or budget.peak:
        return []
    return [
        row.configuration.label
        for row in rows
        if any(
            line.costs[budget.column][-1] < budget.limit
            for run in row.configuration.runs
            if run.name in row.values and (line := courses[run])
        )
    ]


def _by_seed(row: Row) -> dict[str, float]:
    """The values of a row by seed; of several runs with one seed, their mean."""
    found: dict[str, list[float]] = {}
    for run in row.configuration.runs:
        if run.name in row.values:
            seed = run.name if run.seed is None else str(run.seed)
            found.setdefault(seed, []).append(row.values[run.name])
    return {seed: float(np.mean(values)) for seed, values in found.items()}

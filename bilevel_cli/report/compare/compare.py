"""From runs to a comparison: a row for each configuration, at one budget, with its standing."""

from collections import Counter
from dataclasses import replace

import numpy as np

from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare import standings
from bilevel_cli.report.compare.comparison import (
    END,
    NO_NUMBER,
    TOO_LARGE,
    UNCOMPARED,
    Budget,
    Report,
    Row,
    Standing,
)
from bilevel_cli.report.compare.configurations import Configuration, configurations
from bilevel_cli.report.compare.estimates import student
from bilevel_cli.report.compare.fairness import unfair
from bilevel_cli.report.compare.measure import (
    Course,
    Point,
    bounds,
    course,
    is_higher_better,
    point,
)
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.compare.scales import scale_of
from bilevel_cli.report.compare.statements import statements
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import COMPLETED, MISSING, RUNNING, WITHOUT_A_NUMBER

BEGUN = 0.01  # the part of the budget up to which a configuration has just begun


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
    lines = (line for run, line in courses.items() if run.status not in WITHOUT_A_NUMBER and line)
    within = bounds(lines, higher)
    with np.errstate(over="ignore", invalid="ignore"):  # scores may be on their way to infinity
        rows = [_row(group, courses, budget, question, within) for group in groups]
        scale = scale_of([np.array(list(row.values.values())) for row in rows], *within)
        unfinished = _unfinished(rows, courses, budget)
        rows = standings.ordered(rows, higher, question.iqm, scale, unfinished)
    report = Report(runs, groups, rows, metric, higher, budget, within, scale, iqm=question.iqm)
    report.statements.extend(statements(report, question, _ended_before(budget, rows, courses)))
    damaged = (line for run in runs for line in run.warnings)
    report.warnings.extend(map(plain, (*unfair(groups), *damaged)))
    return report


def _common(
    budget: Budget, groups: list[Configuration], courses: dict[Run, Course | None]
) -> float | None:
    """The largest limit that all configurations reached; of a peak, the least in which all fit.

    A configuration reached what all of its completed runs did. Where none has completed yet, it
    reached what the farthest of its runs did. One of which runs are still going, and none has
    completed, has not arrived: those that have are compared without it.
    """
    if budget.column == END:
        return None
    arrived, underway = list[float](), list[float]()
    for group in groups:
        completed, unfinished = list[float](), list[float]()
        for run in group.runs:
            spent = _spent(run, courses[run], budget)
            if run.status not in WITHOUT_A_NUMBER and np.isfinite(spent):
                (completed if run.status == COMPLETED else unfinished).append(spent)
        if completed:
            arrived.append(max(completed) if budget.peak else min(completed))
        elif unfinished:
            going = any(run.status == RUNNING for run in group.runs)
            (underway if going else arrived).append(max(unfinished))
    # Where nothing has arrived, those that are past their start are compared as far as they are.
    reached = arrived or [spent for spent in underway if spent > 0] or underway
    if not reached:
        return None
    return max(reached) if budget.peak else min(reached)


def _spent(run: Run, line: Course | None, budget: Budget) -> float:
    """What a run had spent of the budget at its last evaluation; NaN where that is unknown."""
    return np.nan if line is None else float(line.costs[budget.column][-1])


def _row(
    group: Configuration,
    courses: dict[Run, Course | None],
    budget: Budget,
    question: Question,
    within: tuple[float, float],
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
    spent = {name: found.costs for name, found in points.items()}
    estimate = student(list(values.values()), question.iqm, within)
    return Row(group, values, estimate, Standing(UNCOMPARED), dict(counts), spent)


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


def _unfinished(
    rows: list[Row], courses: dict[Run, Course | None], budget: Budget
) -> dict[str, str]:
    """How far configurations are that have no number yet and of which runs are going, by label."""
    found = dict[str, str]()
    for row in rows:
        going = [run for run in row.configuration.runs if run.status == RUNNING]
        if row.values or not going:
            continue
        label = row.configuration.label
        if budget.column == END or budget.peak:
            found[label] = RUNNING
            continue
        spent = [_spent(run, courses[run], budget) for run in going]
        part = max(filter(np.isfinite, spent), default=0.0) / (budget.limit or np.inf)
        found[label] = "just begun" if part < BEGUN else f"{int(100 * part)} % done"
    return found


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

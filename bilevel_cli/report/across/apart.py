"""Runs of several tasks are compared task by task: their scores have no common scale."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bilevel_cli.records.plain import plain
from bilevel_cli.report.across.reached import Target, aimed, check_tasks
from bilevel_cli.report.compare.compare import compare
from bilevel_cli.report.compare.comparison import Budget, Report
from bilevel_cli.report.compare.configurations import (
    Value,
    all_options,
    choice,
    configurations,
    full_name,
    key_of,
    needed,
)
from bilevel_cli.report.compare.measure import has
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.read.runs import Run

GROUPS = ("task", "data")  # runs that chose another option of these solve another task


def compared(
    runs: list[Run],
    question: Question,
    options: Sequence[str] | None = None,
    target: Target | None = None,
) -> Report:
    """The comparison of some runs, with one for each of their tasks if they have several.

    A run that names no task, since its notes are lost, belongs to the only task of the others.

    Args:
        runs: The runs.
        question: What is asked; its `group_by` need not name what makes a task.
        options: Options that make a task: groups, or settings such as `task.noise.share`. None for
            `GROUPS`.
        target: The scores of which is asked what it took to reach them.

    Returns:
        That of `compare` where the runs have one task. Otherwise the comparison of all runs, with
        those of the tasks as its `parts`: its rows come task by task, with the marks that they
        have there, and its statements are those that all of the parts make.

    Raises:
        UsageError: The question, an option or the target names what no run has.
    """
    report = _compared(runs, question, options)
    if target is None:
        return report
    check_tasks(target, report)
    if not report.parts:
        return aimed(report, target.of(None))
    parts = {name: aimed(part, target.of(name)) for name, part in report.parts.items()}
    return replace(report, parts=parts)


def _compared(runs: list[Run], question: Question, options: Sequence[str] | None) -> Report:
    values = _makers(runs, options)
    tasks = configurations(runs, list(values)) if values else []
    known = [task for task in tasks if task.differing]
    if len(known) < 2:
        return compare(runs, question)
    of_task: dict[str, list[Run]] = {_key(task.runs[0], values): [] for task in known}
    lost: list[Run] = []
    for run in runs:  # those of `tasks` lack runs that were run again later
        of_task.get(_key(run, values), lost).append(run)
    some = {task.label: runs for task, runs in zip(known, of_task.values(), strict=True)}
    return _joined(some, lost, question, list(values))


def _makers(runs: Sequence[Run], options: Sequence[str] | None) -> dict[str, Value]:
    """The options that it takes to tell the tasks apart, by their whole names."""
    if options is None:
        tried = {group: choice(group) for group in GROUPS}
    else:
        every = all_options(runs)
        whole = [full_name(name, every, "--tasks") for name in options]
        tried = {name: every[name] for name in whole}
    return needed(tried, runs)


def _key(run: Run, values: dict[str, Value]) -> str:
    return key_of([value(run) for value in values.values()])


def _joined(
    tasks: dict[str, list[Run]], lost: list[Run], question: Question, names: list[str]
) -> Report:
    runs = [run for some in tasks.values() for run in some]
    metric = question.metric_of(runs)  # refuses a metric that no task has
    without = [
        name
        for name, some in tasks.items()
        if question.metric is not None
        and not any(has(run, question.metric) for run in some)
        and any(len(run.evals) or len(run.train) for run in some)
    ]
    asked = _asked(question.group_by, runs, names)
    parts = {
        name: compare(some, replace(question, group_by=_own(asked, some)))
        for name, some in tasks.items()
        if name not in without
    }
    if len(parts) == 1:
        (only,) = parts.values()
        only.warnings.extend(_warnings({}, without, lost, question))
        return only
    compared = [run for name in parts for run in tasks[name]]
    groups = configurations(compared, None if asked is None else [*asked, *names])
    place = {run: group for group in groups for run in group.runs}
    reports = list(parts.values())
    same = len({part.metric for part in reports}) == 1
    first = reports[0]
    limits = {part.budget.limit for part in reports}
    joined = Report(
        runs=[*compared, *lost],
        configurations=groups,
        rows=[
            replace(row, configuration=place[row.configuration.runs[0]])
            for part in reports
            for row in part.rows
        ],
        metric=first.metric if same else metric,
        higher=first.higher,
        budget=Budget(first.budget.column, limits.pop() if len(limits) == 1 else None),
        parts=parts,
        iqm=question.iqm,
    )
    joined.statements.extend(
        line for line in first.statements if all(line in part.statements for part in reports)
    )
    joined.warnings.extend(_warnings(parts, without, lost, question))
    return joined


def _asked(by: Sequence[str] | None, runs: list[Run], names: list[str]) -> dict[str, str] | None:
    """The whole names of the options that distinguish configurations, but those of tasks."""
    if by is None:
        return None
    options = all_options(runs)
    whole = {name: full_name(name, options) for name in by}
    return {name: full for name, full in whole.items() if full not in names}


def _own(asked: Mapping[str, str] | None, some: list[Run]) -> list[str] | None:
    """Of the options that distinguish configurations, those that runs of one task have."""
    if asked is None:
        return None
    options = all_options(some)
    return [name for name, full in asked.items() if full in options]


def _warnings(
    parts: dict[str, Report], without: list[str], lost: list[Run], question: Question
) -> list[str]:
    lines = [f"{name}: no run has {question.metric}; this task is left out." for name in without]
    if lost:
        one = lost[0].name
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        lines.append(f"{one}{others}: of which task is unknown; left out.")
    damaged = {plain(line) for part in parts.values() for run in part.runs for line in run.warnings}
    for name, part in parts.items():
        lines += [line if line in damaged else f"{name}: {line}" for line in part.warnings]
    return lines

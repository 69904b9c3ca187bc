"""What a reader of a comparison must know, in sentences."""

from collections import Counter
from collections.abc import Sequence

from bilevel_cli.report.compare.comparison import (
    BEST,
    BROKE,
    END,
    LEVEL,
    WORSE,
    Report,
    Row,
)
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.compare.standings import FEW, seeds
from bilevel_cli.report.compare.statistics import least
from bilevel_cli.report.costs import cost_of
from bilevel_cli.vocabulary import RUNNING


def statements(report: Report, question: Question, ended_before: Sequence[str]) -> list[str]:
    """The sentences; the first says what is compared.

    Args:
        report: The comparison.
        question: What was asked of it.
        ended_before: The labels of configurations with a run that ended before the budget.
    """
    if not report.metric:
        lines = ["No run has been evaluated: there is nothing to compare.", *_counted(report)]
        return [*lines, *_doubted(report.rows)]
    kind = "interquartile mean" if question.iqm else "mean"
    better = "higher" if report.higher else "lower"
    lines = [
        f"{report.metric}, {better} is better: {kind} and 95 % interval over seeds, "
        f"{_where(report, question)}.",
        *_counted(report),
    ]
    if ended_before:
        lines.append(
            f"Ended before that budget, and stand with their end: {', '.join(ended_before)}."
        )
    return [*lines, *_compared(report.rows, report.scale.name), *_doubted(report.rows)]


def _where(report: Report, question: Question) -> str:
    budget = report.budget
    row = "the last evaluation"
    if question.validation is not None:
        row = f"the evaluation with the best {question.validation}"
    if budget.column == END:
        return f"{row} of each run, WHATEVER IT COST"
    if budget.limit is None:
        return "but no run has come to one yet"
    limit = f"{budget.limit:.10g} {cost_of(budget.column).unit}"
    if question.budget.limit is not None:
        return f"{row} within {limit}"
    if budget.peak:
        return f"{row} within {limit}, the least in which all configurations fit"
    of = "all with completed runs" if _underway(report) else "all configurations"
    return f"{row} within {limit}, the most that {of} reached"


def _counted(report: Report) -> list[str]:
    rows, counts = report.rows, Counter[str]()
    for row in rows:
        counts.update(row.counts)
    kept = sum(len(row.configuration.runs) for row in rows)
    used = sum(len(row.values) for row in rows)
    others = "".join(f"; {count} {status}" for status, count in sorted(counts.items()))
    lines = [
        f"{_many(kept, 'run')} in {_many(len(rows), 'configuration')}, {used} in the means{others}."
    ]
    if repeated := len(report.runs) - kept:
        lines.append(
            f"{_many(repeated, 'run')} left out: run again later with the same settings and seed; "
            "the last run counts, however it ended."
        )
    return lines


def _underway(report: Report) -> list[Row]:
    """The configurations that have no number yet, and of which runs are going."""
    return [row for row in report.rows if not row.values and RUNNING in row.counts]


def _compared(rows: Sequence[Row], scale: str) -> list[str]:
    """How rows were compared, and what a reader must know of those that were not."""
    behind = [row.standing.behind for row in rows if row.standing.behind is not None]
    lines = []
    if behind:
        paired = {one.by.n > 0 for one in behind}
        how = "paired by seed" if True in paired else "Welch's, since few seeds are common"
        how += ", or Welch's where few seeds are common" if len(paired) > 1 else ""
        tests = f"t tests of {scale}" if scale else "t tests"
        together = f" for all {len(behind)} together (Holm)" if len(behind) > 1 else ""
        lines.append(f"compared with the best: {tests}, {how}, at 95 %{together}.")
        fewest = min(seeds(row) for row in rows if row.standing.kind in (BEST, LEVEL, WORSE))
        if fewest < FEW:
            shown, later = (f"{least(count, len(behind)):.2g}" for count in (fewest, 10))
            lines.append(
                f"few seeds: with {fewest}, a difference is shown if it is {shown} or more of its "
                f"standard deviations over seeds; with 10, if it is {later}."
            )
    if any(row.standing.kind == BROKE and row.values for row in rows):
        lines.append(
            "Where runs broke, the mean is that of the others. It is not compared: a run that "
            "broke counts as worse than any that did not."
        )
    return lines


def _doubted(rows: Sequence[Row]) -> list[str]:
    """What runs doubt about their own numbers: for each kind of doubt, the first run's sentence."""
    lines = []
    for row in rows:
        runs, said = row.configuration.runs, dict[str, list[str]]()
        for run in runs:
            for kind, sentence in run.doubts.items():
                said.setdefault(kind, []).append(sentence)
        lines += [
            f"{row.configuration.label}: {len(sentences)} of {_many(len(runs), 'run')} "
            f"doubt{'s' * (len(sentences) == 1)} {'its' if len(sentences) == 1 else 'their'} "
            f"{kind.replace('_', ' ')}: {sentences[0]}"
            for kind, sentences in said.items()
        ]
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""What a reader of a comparison must know, in sentences."""

from collections import Counter
from collections.abc import Sequence

from bilevel_cli.report.compare.comparison import BEST, END, TIE, TOO_FEW, Budget, Report, Row
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.compare.statistics import EQUAL_CALLED_DIFFERENT
from bilevel_cli.report.costs import cost_of


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
    interval = "bootstrap" if question.iqm else "Student's t"
    better = "higher" if report.higher else "lower"
    lines = [
        f"{report.metric}, {better} is better: {kind} and 95 % interval ({interval}) over seeds, "
        f"{_where(report.budget, question)}.",
        *_counted(report),
    ]
    if ended_before:
        lines.append(
            f"Ended before that budget, and stand with their end: {', '.join(ended_before)}."
        )
    return [*lines, *_ties(report.rows), *_doubted(report.rows)]


def _where(budget: Budget, question: Question) -> str:
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
    return f"{row} within {limit}, the most that all configurations reached"


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


def _ties(rows: Sequence[Row]) -> list[str]:
    marks = {row.mark for row in rows}
    seeds = min((row.estimate.n for row in rows if row.mark != TOO_FEW and row.values), default=0)
    lines = []
    if TIE in marks:
        lines.append(
            "tie: the 95 % bootstrap interval of the difference to the best, paired by seed, "
            "contains 0."
        )
    if len(rows) > 1 and marks - {BEST, TOO_FEW} and seeds in EQUAL_CALLED_DIFFERENT:
        lines.append(
            f"few seeds: with {seeds}, about {EQUAL_CALLED_DIFFERENT[seeds]} of 100 pairs of equal "
            "methods would be called different."
        )
    if TOO_FEW in marks:
        lines.append("too few seeds: with fewer than 3 in common, no difference is declared.")
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

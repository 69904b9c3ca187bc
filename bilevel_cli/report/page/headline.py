"""What the page says first: who wins, where, and by how much."""

from collections.abc import Sequence

from bilevel_cli.report.compare.comparison import TIE, TOO_FEW, Budget, Report, Row
from bilevel_cli.report.costs import cost_of
from bilevel_cli.report.show import cells
from bilevel_cli.report.show.cells import words
from bilevel_cli.report.show.curves import broken

MOST_LABELS = 3  # more are counted instead of listed


def headline(report: Report) -> str:
    """Which configuration is best, where, by how much, its ties, and how many runs broke."""
    count, total = len(broken(report)), sum(len(one.runs) for one in report.configurations)
    failures = f" {count} of {total} runs broke." if count else ""
    rows = [row for row in report.rows if row.estimate.n]
    if not rows:
        return f"No run has a number to compare.{failures}"
    measured = f"{words(report.metric)} {measurement(rows[0])} {where(report.budget)}"
    if len(report.configurations) == 1:
        return f"{measured[0].upper()}{measured[1:]}.{failures}"
    if len(rows) == 1:
        label = rows[0].configuration.label
        return f"Only {label} has a number to compare: {measured}.{failures}"
    ties = [row for row in rows if row.mark in (TIE, TOO_FEW)]
    ahead = ""
    if not ties:
        ahead = f"; next is {rows[1].configuration.label}, {measurement(rows[1])}"
    return f"{rows[0].configuration.label} {_verdict(ties)}: {measured}{ahead}.{failures}"


def measurement(row: Row) -> str:
    """The mean of a row with its interval."""
    return cells.estimate(row.estimate, "\u00b1")


def where(budget: Budget) -> str:
    """The budget in words."""
    if budget.limit is None:
        return "at the end of each run"
    return cost_of(budget.column).sentence.format(budget.limit)


def _verdict(ties: Sequence[Row]) -> str:
    if not ties:
        return "is best"
    labels = [row.configuration.label for row in ties]
    others = " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
    if len(labels) > MOST_LABELS:
        others = f"{labels[0]} and {len(labels) - 1} others"
    if all(row.mark == TOO_FEW for row in ties):
        return f"leads, with too few seeds to tell it from {others}"
    return f"leads, level with {others}"

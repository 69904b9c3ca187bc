"""What the page says first: who wins, where, and by how much."""

from collections.abc import Sequence

from bilevel_cli.report.compare.comparison import Budget, Report, Row
from bilevel_cli.report.show import cells
from bilevel_cli.report.show.cells import words
from bilevel_cli.report.show.curves import broken

MOST_LABELS = 3  # that a sentence lists

WITHIN = {
    "step": "after {:,.10g} outer steps",
    "seconds": "within {:,.4g} seconds",
    "inner_grads": "within {:,.10g} inner gradients",
    "peak_memory_mb": "within {:,.4g} MB",
}


def headline(report: Report) -> str:
    """Who wins, where, by how much, with whom it ties, and how many runs broke."""
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
    ties = [row for row in rows if row.mark.startswith("tie")]
    ahead = ""
    if not ties:
        ahead = f"; next is {rows[1].configuration.label}, {measurement(rows[1])}"
    return f"{rows[0].configuration.label} {_verdict(ties)}: {measured}{ahead}.{failures}"


def measurement(row: Row) -> str:
    """The mean with its interval."""
    return cells.estimate(row.estimate, "\u00b1")


def where(budget: Budget) -> str:
    """At what budget, in words."""
    if budget.limit is None:
        return "at the end of each run"
    return WITHIN[budget.column].format(budget.limit)


def _verdict(ties: Sequence[Row]) -> str:
    if not ties:
        return "is best"
    labels = [row.configuration.label for row in ties]
    others = " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
    if len(labels) > MOST_LABELS:
        others = f"{labels[0]} and {len(labels) - 1} others"
    if all("few" in row.mark for row in ties):
        return f"leads, with too few seeds to tell it from {others}"
    return f"leads, level with {others}"

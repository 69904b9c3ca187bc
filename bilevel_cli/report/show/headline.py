"""What a report says first: who wins, where, by how much, and how sure that is."""

from collections.abc import Iterable, Sequence

from bilevel_cli.report.compare.comparison import (
    BROKE,
    LEVEL,
    UNCOMPARED,
    WORSE,
    Budget,
    Report,
    Row,
)
from bilevel_cli.report.compare.standings import FEW, seeds
from bilevel_cli.report.costs import cost_of
from bilevel_cli.report.show import cells
from bilevel_cli.report.show.cells import words
from bilevel_cli.report.show.curves import broken

MOST_LABELS = 3  # more are counted instead of listed


def headline(report: Report, sign: str = "+-") -> str:
    """Which configuration is best, where, by how much, what is level, and how many runs broke.

    Args:
        report: The comparison.
        sign: Between a mean and half of its interval.
    """
    count, total = len(broken(report)), sum(len(one.runs) for one in report.configurations)
    failures = f" {count} of {total} runs broke." if count else ""
    rows = [row for row in report.rows if row.estimate.n]
    if not rows:
        return f"No run has a number to compare.{failures}"
    first = rows[0]
    label = first.configuration.label
    measured = (
        f"{words(report.metric)} {cells.estimate(first.estimate, sign)} {where(report.budget)}"
    )
    if len(report.configurations) == 1:
        return f"{measured[0].upper()}{measured[1:]}.{failures}"
    if len(rows) == 1:
        return f"Only {label} has a number to compare: {measured}.{failures}"
    if first.standing.kind == BROKE:
        return (
            f"No configuration is best, since all lost runs. {label} lost the fewest "
            f"({first.standing.why}): {measured} without them.{failures}"
        )
    return f"{label} {_verdict(rows)}: {measured}{_next(rows)}.{failures}"


def where(budget: Budget) -> str:
    """The budget in words."""
    if budget.limit is None:
        return "at the end of each run"
    return cost_of(budget.column).sentence.format(budget.limit)


def _verdict(rows: Sequence[Row]) -> str:
    """How the first row stands to the others: level with some, better than all, not compared."""
    level, worse, single = (
        [row for row in rows if row.standing.kind == kind] for kind in (LEVEL, WORSE, UNCOMPARED)
    )
    fewest = min((seeds(row) for row in (rows[0], *level, *worse)), default=0)
    told = f", as far as {fewest} seeds tell" if fewest < FEW else ""
    if level:
        return f"leads, level with {listed(map(_label, level))}{told}"
    if worse:
        return f"is best{told}"
    if single:
        return f"leads, not compared with {listed(map(_label, single))} ({single[0].standing.why})"
    return "is best, since it alone lost no run"


def _next(rows: Sequence[Row]) -> str:
    """The second row where it is known to be worse."""
    second = rows[1]
    if second.standing.kind != WORSE:
        return ""
    return f"; next is {second.configuration.label}, {cells.mark(second)}"


def _label(row: Row) -> str:
    return row.configuration.label


def listed(labels: Iterable[str]) -> str:
    """Labels as a list in a sentence; of many the first alone, with how many others there are."""
    labels = list(labels)
    if len(labels) > MOST_LABELS:
        return f"{labels[0]} and {len(labels) - 1} others"
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)

"""The cells of a comparison, as text: for the terminal, Markdown and LaTeX alike."""

import math
from typing import NamedTuple

from bilevel_cli.report.compare.comparison import (
    BROKE,
    UNCOMPARED,
    WORSE,
    Estimate,
    Report,
    Row,
)
from bilevel_cli.report.costs import columns, cost_of


class Line(NamedTuple):
    """A row of cells.

    Attributes:
        label: The name of the configuration.
        number: The metric, with its interval.
        mark: How it stands to the others, as `mark` says it.
        n: Number of runs in the mean.
        others: The rest of the runs, such as "2 of 5 interrupted", but those that the mark counts.
        doubts: How many runs doubt their numbers, such as "1 of 5".
        costs: Mean costs by the heading of their column, of the costs that any configuration has.
    """

    label: str
    number: str
    mark: str
    n: str
    others: str
    doubts: str
    costs: dict[str, str]


def lines(report: Report) -> list[Line]:
    """A line for each row of a report."""
    shown = known_costs(report)
    return [
        Line(
            row.configuration.label,
            estimate(row.estimate) if row.values else "-",
            mark(row),
            str(row.estimate.n),
            _others(row),
            f"{row.doubtful} of {len(row.configuration.runs)}" if row.doubtful else "",
            {cost_of(name).heading: amount(row.costs.get(name, math.nan)) for name in shown},
        )
        for row in report.rows
    ]


def mark(row: Row) -> str:
    """How a configuration stands to the others, in the words that all outputs have.

    best; level; worse by 0.023 [0.010, 0.040]; 3 of 6 diverged; not compared: 1 seed.
    """
    standing = row.standing
    if standing.kind == WORSE and standing.behind is not None:
        return f"worse by {difference(standing.behind.by)}"
    if standing.kind == UNCOMPARED:
        return f"not compared: {standing.why}"
    return standing.why if standing.kind == BROKE else standing.kind


def known_costs(report: Report) -> list[str]:
    """The columns of the costs that any configuration has: one of a table each."""
    return [
        name
        for name in columns()
        if any(math.isfinite(row.costs.get(name, math.nan)) for row in report.rows)
    ]


def amount(value: float) -> str:
    """A cost as text: to three digits, whole from a hundred on, "-" where it is unknown."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if 100 <= value < 1e9 or value == round(value, 0) else f"{value:.3g}"


def estimate(found: Estimate, sign: str = "+-") -> str:
    """A mean and its interval, to the digits that the interval supports.

    Half of its width has one digit, or two if the first is a 1. An interval that is not symmetric
    to these digits is given by both ends.
    """
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return f"{found.value:.4g}"
    half = (found.high - found.low) / 2
    size = max(abs(found.value), half)
    if half <= 1e-12 * size or size < 1e-300:  # equal, but for rounding
        return f"{found.value:.4g} {sign} {half:.1g}"
    power = _power(size)
    scale = 10.0**power
    decimals = _decimals(half / scale)
    skew = (found.high - found.value) - (found.value - found.low)
    if abs(skew / scale) < 10.0**-decimals:
        text = f"{_fixed(found.value / scale, decimals)} {sign} {_fixed(half / scale, decimals)}"
        return f"({text})e{power:+03d}" if power else text
    return _with_ends(found, power, decimals)


def difference(found: Estimate) -> str:
    """A difference and both ends of its interval, of which none is 0: they keep a digit of it."""
    half = (found.high - found.low) / 2
    size = max(abs(found.high), abs(found.low))
    if half <= 1e-12 * size or size < 1e-300:
        return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"
    power = _power(size)
    nearest = min(abs(found.low), abs(found.high)) / 10.0**power
    decimals = _decimals(half / 10.0**power)
    if nearest > 0:
        decimals = max(decimals, -math.floor(math.log10(nearest)))
    return _with_ends(found, power, decimals)


def _with_ends(found: Estimate, power: int, decimals: int) -> str:
    value, low, high = (
        _fixed(one / 10.0**power, decimals) for one in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]" + (f"e{power:+03d}" if power else "")


def _power(size: float) -> int:
    """The power of ten that is written behind numbers of this size; 0 for none."""
    return 0 if 1e-3 <= size < 1e6 else math.floor(math.log10(size))


def _decimals(half: float) -> int:
    leading = math.floor(math.log10(half))
    first = round(half / 10.0**leading, 1)
    return -leading + (1 if first < 2 else 0)


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def _others(row: Row) -> str:
    said = row.lost if row.standing.kind == BROKE else {}
    total = len(row.configuration.runs)
    return ", ".join(
        f"{count} of {total} {status}"
        for status, count in sorted(row.counts.items())
        if status not in said
    )


def words(name: str) -> str:
    """The name of a column as words of a sentence."""
    return name.replace("_", " ")

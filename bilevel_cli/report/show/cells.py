"""The cells of a comparison, as text: for the terminal, Markdown and LaTeX alike."""

import math
from typing import NamedTuple

from bilevel_cli.report.compare.comparison import Estimate, Report, Row
from bilevel_cli.report.costs import columns, cost_of


class Line(NamedTuple):
    """A row of cells.

    Attributes:
        label: The name of the configuration.
        number: The metric, with its interval.
        mark: As in `Row`.
        n: Number of runs in the mean.
        others: The rest of the runs, such as "2 of 5 diverged".
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
            _number(row),
            row.mark,
            str(row.estimate.n),
            _others(row),
            f"{row.doubtful} of {len(row.configuration.runs)}" if row.doubtful else "",
            {cost_of(name).heading: amount(row.costs.get(name, math.nan)) for name in shown},
        )
        for row in report.rows
    ]


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
    is given by both ends.
    """
    if not math.isfinite(found.low):
        return f"{found.value:.4g}"
    half = (found.high - found.low) / 2
    size = max(abs(found.value), half)
    if half <= 1e-12 * size or size < 1e-300:  # equal, but for rounding
        return f"{found.value:.4g} {sign} {half:.1g}"
    power = 0 if 1e-3 <= size < 1e6 else math.floor(math.log10(size))
    scale = 10.0**power
    decimals = _decimals(half / scale)
    value, low, high = (
        _fixed(one / scale, decimals) for one in (found.value, found.low, found.high)
    )
    middle = (found.high + found.low) / 2
    if abs(middle - found.value) < 1e-6 * half:
        text = f"{value} {sign} {_fixed(half / scale, decimals)}"
        return f"({text})e{power:+03d}" if power else text
    text = f"{value} [{low}, {high}]"
    return f"{text}e{power:+03d}" if power else text


def _decimals(half: float) -> int:
    leading = math.floor(math.log10(half))
    first = round(half / 10.0**leading, 1)
    return -leading + (1 if first < 2 else 0)


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def _number(row: Row) -> str:
    if row.values:
        return estimate(row.estimate)
    return max(row.counts, key=lambda status: row.counts[status], default="-")


def _others(row: Row) -> str:
    total = len(row.configuration.runs)
    return ", ".join(f"{count} of {total} {status}" for status, count in sorted(row.counts.items()))


def words(name: str) -> str:
    """The name of a column as words of a sentence."""
    return name.replace("_", " ")

"""A comparison as plain text that fits the width of the terminal."""

import textwrap
from collections.abc import Sequence

from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.show import cells

SHORTEST = 16  # letters to which labels may be cut to make a table fit


def text(report: Report, width: int) -> str:
    """The sentences, then the table; a table that is too wide becomes a few lines for each row.

    Args:
        report: The comparison.
        width: The width of the terminal in letters.
    """
    said = [line for one in report.statements for line in textwrap.wrap(one, width)]
    table = _table(report, width) or _stacked(report, width)
    return "\n".join([*said, "", *table])


def _table(report: Report, width: int) -> list[str] | None:
    head, *rows = columns(report)
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        if widths[0] - over < SHORTEST:
            return None
        widths[0] -= over
        rows = [(shortened(label, widths[0]), *others) for label, *others in rows]
    aligned = [str.ljust, *([str.rjust] * (len(head) - 1))]
    return [
        "  ".join(
            align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)
        ).rstrip()
        for row in [head, *rows]
    ]


def columns(report: Report) -> list[tuple[str, ...]]:
    """The head of the table and its rows as cells, without columns that would be empty."""
    lines = cells.lines(report)
    table = [
        ("configuration", report.metric or "score", "", "n", "others", "doubts", *_costs(lines)),
        *(
            (one.label, one.number, one.mark, one.n, one.others, one.doubts, *one.costs.values())
            for one in lines
        ),
    ]
    empty = {place for place in (2, 4, 5) if not any(row[place] for row in table[1:])}
    return [tuple(c for place, c in enumerate(row) if place not in empty) for row in table]


def shortened(label: str, width: int) -> str:
    """The beginning and the end of a label, which is where labels that are alike differ."""
    if len(label) <= width:
        return label
    end = (width - 3) // 2
    return f"{label[: width - 3 - end]}...{label[len(label) - end :]}"


def _stacked(report: Report, width: int) -> list[str]:
    found = []
    for one in cells.lines(report):
        parts = [f"{report.metric or 'score'} {one.number}", one.mark, f"n {one.n}", one.others]
        parts.append(one.doubts and f"{one.doubts} in doubt")
        costs = ", ".join(f"{value} {name}" for name, value in one.costs.items())
        found += [*textwrap.wrap(one.label, width)]
        for line in (", ".join(filter(None, parts)), costs):
            found += textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="  ")
    return found


def _costs(lines: Sequence[cells.Line]) -> list[str]:
    return list(lines[0].costs) if lines else []

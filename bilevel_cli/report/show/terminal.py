"""A comparison as plain text that fits the width of the terminal."""

import re
import textwrap
from collections.abc import Sequence

from bilevel_cli.report.compare.comparison import ALONE, Report
from bilevel_cli.report.show import cells
from bilevel_cli.report.show.headline import headline

READABLE = 28  # letters of a label that are worth more than a column of costs
SHORTEST = 16  # letters to which labels may be cut to make a table fit
COMPARED = "against the best"  # the head of the column of marks

Cells = tuple[str, ...]


def text(report: Report, width: int) -> str:
    """The headline and the sentences, then the table with a line for each row.

    Where the table is too wide, costs are left out, the last first, and long labels are cut. In a
    terminal that has no room for label, number and mark, each row has a few lines.

    Args:
        report: The comparison.
        width: The width of the terminal in letters.
    """
    said = [headline(report), *report.statements]
    table = _table(report, width) or _stacked(report, width)
    return "\n".join([*(line for one in said for line in textwrap.wrap(one, width)), "", *table])


def _table(report: Report, width: int) -> list[str] | None:
    """The lines of the widest table that fits; None where none does."""
    table = columns(report)
    head, least = table[0], 4 if COMPARED in table[0] else 3
    for end in range(len(head), least - 1, -1):
        found = _fitted([row[:end] for row in table], READABLE, width)
        if found is not None:
            return [*found, *_left_out(head[end:], width)]
    found = _fitted(_shorter([row[:least] for row in table]), SHORTEST, width)
    return found and [*found, *_left_out(head[least:], width)]


def _fitted(table: list[Cells], letters: int, width: int) -> list[str] | None:
    """The lines of a table, its labels cut to no fewer than some letters; None if it is wider."""
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    room = width - sum(widths[1:]) - 2 * len(widths[1:])
    if room < min(widths[0], letters):
        return None
    widths[0] = min(widths[0], room)
    aligned = [str.ljust, *(str.ljust if name == COMPARED else str.rjust for name in table[0][1:])]
    return [
        "  ".join(
            align(cell, wide)
            for align, cell, wide in zip(
                aligned, (shortened(label, widths[0]), *others), widths, strict=True
            )
        ).rstrip()
        for label, *others in table
    ]


def _shorter(table: list[Cells]) -> list[Cells]:
    """The cells in fewer letters: the metric cut to its numbers, no kinds of failures."""
    (label, metric, *heads), *rows = table
    widest = max(len(number) for _, number, *_ in rows)
    cut = [tuple(re.sub(" broke: .*", " broke", cell) for cell in row) for row in rows]
    named = [(row[0], *others) for row, (_, *others) in zip(rows, cut, strict=True)]
    return [(label, shortened(metric, max(widest, SHORTEST)), *heads), *named]


def _left_out(names: Sequence[str], width: int) -> list[str]:
    if not names:
        return []
    return textwrap.wrap(f"Too narrow for {', '.join(names)}: --csv has every column.", width)


def columns(report: Report) -> list[Cells]:
    """The head of the table and its rows as cells, without columns that would be empty."""
    lines = cells.lines(report)
    table = [
        (
            *("configuration", report.metric or "score", COMPARED, "n", "others", "doubts"),
            *_costs(lines),
        ),
        *(
            (one.label, one.number, one.mark, one.n, one.others, one.doubts, *one.costs.values())
            for one in lines
        ),
    ]
    empty = {place for place in (4, 5) if not any(row[place] for row in table[1:])}
    if all(row.standing.why == ALONE for row in report.rows):
        empty.add(2)
    return [
        tuple(cell or "-" for place, cell in enumerate(row) if place not in empty) for row in table
    ]


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

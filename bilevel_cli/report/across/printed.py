"""Comparisons of several tasks, and targets, in a terminal and in Markdown."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from bilevel_cli.report.across import by_steps
from bilevel_cli.report.across.overall import Competitor, Overall, overall
from bilevel_cli.report.across.pairings import Pair
from bilevel_cli.report.across.reached import Reached, reached, shown
from bilevel_cli.report.across.told import (
    PROBABILITY,
    RECORDS,
    failed,
    headline,
    rank,
    sentences,
    standing,
)
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.step_sweep import step_sweep
from bilevel_cli.report.costs import cost_of
from bilevel_cli.report.show import cells, papers, terminal

Table = list[tuple[str, ...]]

LABEL = 24  # letters of a label in the table of pairs


def text(report: Report, width: int) -> str:
    """A report as text: task by task if it has several, then all of them together."""
    if not report.parts:
        return "\n\n".join([terminal.text(report, width), *_further(report, width)])
    blocks = [_wrapped([headline(report), *report.statements], width)]
    for name, part in report.parts.items():
        own = replace(
            part, statements=[one for one in part.statements if one not in report.statements]
        )
        blocks += [f"{_title(name)}\n{terminal.text(own, width)}", *_further(part, width)]
    found = overall(report)
    if found is not None:
        said = _wrapped(sentences(report, found), width)
        table = _fitted(ranking(found), width)
        blocks.append("\n".join([_title(f"All {len(found.tasks)} tasks"), said, "", *table]))
        if len(found.competitors) > 1:
            blocks.append("\n".join(_fitting(found, width)))
    return "\n\n".join(blocks)


def markdown(report: Report) -> str:
    """The same in Markdown."""
    if not report.parts:
        return "\n\n".join([papers.markdown(report), *_marked_further(report)])
    blocks = [
        f"**{papers.marked_down(headline(report))}**",
        *map(papers.marked_down, report.statements),
    ]
    for name, part in report.parts.items():
        own = replace(
            part, statements=[one for one in part.statements if one not in report.statements]
        )
        blocks += [f"### {papers.marked_down(name)}", papers.markdown(own), *_marked_further(part)]
    found = overall(report)
    if found is not None:
        blocks += [
            f"### All {len(found.tasks)} tasks",
            *map(papers.marked_down, sentences(report, found)),
            _marked(ranking(found)),
        ]
        if len(found.competitors) > 1:
            said = papers.marked_down(f"{PROBABILITY} {RECORDS}")
            blocks += [said, _marked(pairs(found, found.paired))]
    return "\n\n".join(blocks)


def ranking(found: Overall) -> Table:
    """The table over all tasks: its head, and a row for each competitor."""
    table: Table = [
        ("configuration", "rank", terminal.COMPARED, "normalised", "won-level-lost", "failed")
    ]
    for one in found.competitors:
        mean = "-" if math.isnan(one.rank) else cells.estimate(one.mean)
        table.append(
            (one.label, rank(one), standing(found, one), mean, record(found, one), failed(one))
        )
    empty = {place for place in (2, 5) if not any(row[place] for row in table[1:])}
    return [tuple(c for place, c in enumerate(row) if place not in empty) for row in table]


def record(found: Overall, one: Competitor) -> str:
    """How many comparisons with another configuration on a task were won, level and lost."""
    tried = (found.pairs.get((one.label, other.label)) for other in found.paired)
    against = [pair for pair in tried if pair is not None]
    counts = zip(*((pair.won, pair.level, pair.lost) for pair in against), strict=True)
    return "-".join(str(sum(one)) for one in counts)


def pairs(found: Overall, shown: Sequence[Competitor], whole: bool = True) -> Table:
    """The table of pairs: a row and a column for each competitor that is shown.

    Args:
        found: The standings.
        shown: Some of their competitors.
        whole: Whether the tasks that were won, level and lost stand behind each probability.
    """
    numbers = [str(number + 1) for number in range(len(shown))]
    table: Table = [("P(row beats column)", *numbers)]
    for number, one in zip(numbers, shown, strict=True):
        against = [_pair(found, one, other, whole) for other in shown]
        table.append((f"{number} {terminal.shortened(one.label, LABEL)}", *against))
    return table


def _pair(found: Overall, one: Competitor, other: Competitor, whole: bool) -> str:
    if one is other:
        return "."
    pair = found.pairs[one.label, other.label]
    if math.isnan(pair.probability):
        return "-"
    return beaten(pair) + (f" {pair.won}-{pair.level}-{pair.lost}" if whole else "")


def beaten(pair: Pair) -> str:
    """A probability of improvement, with a star where its interval leaves out one half."""
    return f"{pair.probability:.2f}{'*' if pair.low > 0.5 or pair.high < 0.5 else ''}"


def _fitting(found: Overall, width: int) -> list[str]:
    """What is said of pairs, and the table of as many of the first as fit into a line."""
    every = found.paired
    tries = [(every, True), *((every[:count], False) for count in range(len(every), 1, -1))]
    for some, whole in tries:
        lines = _lined(pairs(found, some, whole))
        if max(map(len, lines)) > width:
            continue
        said = [PROBABILITY, *([RECORDS] if whole else [])]
        if len(some) < len(every):
            said.append(f"The first {len(some)} of {len(every)} fit here; --html has all.")
        return [_wrapped([" ".join(said)], width), "", *lines]
    return [_wrapped(["Too narrow for the table of pairs: --html has it."], width)]


def targets(report: Report) -> tuple[str, Table]:
    """What it took to reach the target of one task: a sentence, and a table."""
    found = reached(report)
    better = "at least" if report.higher else "at most"
    sentence = (
        f"To {report.metric} {better} {report.target:.6g}: what half of the runs had spent at "
        "their first evaluation as good, over the whole of each run."
    )
    costs = shown(found)
    table: Table = [("configuration", "reached", "", *(cost_of(cost).heading for cost in costs))]
    for one in found:
        amounts = [_needed(one, cost) for cost in costs]
        going = f"{one.going} going" if one.going else ""
        table.append((one.configuration.label, f"{one.count} of {len(one.runs)}", going, *amounts))
    if not any(row[2] for row in table[1:]):
        table = [(label, count, *others) for label, count, _, *others in table]
    return sentence, table


def _needed(one: Reached, cost: str) -> str:
    median = one.median(cost)
    return "never" if median == math.inf else cells.amount(median)


def _more(report: Report) -> list[tuple[str, Table]]:
    """What stands below the table of one task: a sentence and a table each."""
    found = []
    if report.target is not None and report.metric:
        found.append(targets(report))
    if sweep := step_sweep(report):
        found.append((by_steps.sentence(sweep), by_steps.table(sweep)))
    return found


def _further(report: Report, width: int) -> list[str]:
    return [
        "\n".join([_wrapped([sentence], width), "", *_fitted(table, width)])
        for sentence, table in _more(report)
    ]


def _marked_further(report: Report) -> list[str]:
    more = _more(report)
    return [text for said, rows in more for text in (papers.marked_down(said), _marked(rows))]


def _wrapped(lines: Sequence[str], width: int) -> str:
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))


def _title(name: str) -> str:
    return f"{name}\n{'-' * len(name)}"


def _lined(table: Table) -> list[str]:
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    left = [not place or head == terminal.COMPARED for place, head in enumerate(table[0])]
    return [
        "  ".join(
            cell.ljust(width) if own else cell.rjust(width)
            for cell, width, own in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in table
    ]


def _fitted(table: Table, width: int) -> list[str]:
    """The lines of a table, with labels cut to make them fit; wrapped where that is not enough."""
    over = max(map(len, _lined(table))) - width
    if over > 0:
        room = max(terminal.SHORTEST, max(len(row[0]) for row in table) - over)
        table = [(terminal.shortened(label, room), *others) for label, *others in table]
    lines = _lined(table)
    if max(map(len, lines)) <= width:
        return lines
    head, *rows = table
    found = []
    for label, *others in rows:
        pairs = [f"{h} {cell}".strip() for h, cell in zip(head[1:], others, strict=True) if cell]
        found += textwrap.wrap(label, width)
        found += textwrap.wrap(", ".join(pairs), width, initial_indent="  ", subsequent_indent="  ")
    return found


def _marked(table: Table) -> str:
    return papers.piped([[papers.marked_down(cell) for cell in row] for row in table])

"""What the terminal shows of a finding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bilevel_cli.labels.examine import REWEIGHTED, Finding
from bilevel_cli.labels.own_file import OwnFile, Wanted
from bilevel_cli.records.plain import plain

LONGEST = 24  # letters of a value in the terminal
UNSURE = 0.5  # below it, the label is more probably right than wrong
CLEAR = 0.75  # a smaller share of named rows that are expected to be wrong is remarked


class Suspect(NamedTuple):
    """One row to show.

    Attributes:
        rank: From 1.
        name: Its `--id`, or its number, from 0.
        given: The label that it has.
        suggested: The label that it may be.
        confidence: The probability that its label is wrong.
        contents: Its other columns, as they stand in the file.
    """

    rank: int
    name: str
    given: str
    suggested: str
    confidence: float
    contents: dict[str, str]


def suspects(wanted: Wanted, own: OwnFile, finding: Finding, most: int) -> Iterator[Suspect]:
    """The first rows of the ranking."""
    apart = {wanted.target, wanted.row_id}
    others = [title for title in own.text.columns if title not in apart]
    ranked = finding.columns["rank"].dropna().astype(int).sort_values()
    for number in ranked.index[:most].astype(int):
        row, verdict = own.text.iloc[number], finding.columns.iloc[number]
        yield Suspect(
            int(verdict["rank"]),
            str(number if wanted.row_id is None else row[wanted.row_id]),
            str(row[wanted.target]),
            str(verdict["suggested_label"]),
            float(verdict["confidence"]),
            {title: str(row[title]) for title in others},
        )


def headline(wanted: Wanted, finding: Finding) -> str:
    """How many labels are wrong."""
    return (
        f"About {finding.named:,} of {finding.rows:,} labels in {wanted.target!r} are probably "
        f"wrong (95 % interval: {np.floor(finding.low):,.0f} to {np.ceil(finding.high):,.0f})."
    )


def notes(own: OwnFile, finding: Finding) -> list[str]:
    """What a reader of the headline must know, a sentence each."""
    found = []
    if finding.named:
        found.append(
            f"As many rows are named, the most suspicious; of these the model expects "
            f"{finding.expected:,.0f} to be wrong."
        )
    best = finding.columns["confidence"].max()
    if not best > UNSURE:
        found.append(
            "No single row is more likely wrong than right: the columns do not tell the classes "
            "apart well enough. Take the list as an order in which to look."
        )
    elif finding.expected < CLEAR * finding.named:
        found.append(
            "The classes overlap in these columns: many labels cannot be called right or wrong, "
            "and the true number may well be higher."
        )
    if own.trimmed:
        found.append(f"{own.trimmed} labels have blanks at their ends, which do not count.")
    found += [f"{phrase[0].upper()}{phrase[1:]}." for phrase in own.alike]
    if own.note:
        found.append(own.note)
    for label, count in own.rare.items():
        found.append(f"Class {label!r} has {count} rows, fewer than folds: they are not judged.")
    for title, reason in own.left_out.items():
        found.append(f"Column {title!r} was not used: {reason}.")
    shares = ", ".join(f"{name} {weight:.0%}" for name, weight in finding.weights.items())
    found.append(f"Weights of the classifiers: {shares} ({REWEIGHTED}: the bilevel run).")
    return found


def table(rows: Sequence[Suspect], width: int) -> str:
    """The rows as text: a line for the verdict on each, and its contents below.

    Args:
        rows: To show.
        width: Of the terminal, in letters.
    """
    lines = []
    for row in rows:
        lines.append(
            f"{row.rank:>4}. row {plain(row.name, LONGEST)}: {plain(row.given, LONGEST)} -> "
            f"{plain(row.suggested, LONGEST)} ({row.confidence:.0%})"
        )
        lines += _wrapped(
            [f"{key}={plain(text, LONGEST)}" for key, text in row.contents.items()], width
        )
    return "\n".join(lines)


def _wrapped(items: Sequence[str], width: int) -> list[str]:
    """The items behind an indent, as many in a line as fit."""
    lines: list[str] = []
    line = ""
    for item in items:
        if line and 8 + len(line) + len(item) > width:
            lines.append(f"{line},")
            line = ""
        line += f"{', ' if line else ''}{item}"
    return [f"      {line}" for line in [*lines, line] if line]

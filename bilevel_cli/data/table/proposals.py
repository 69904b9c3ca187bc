"""Settings that would make numbers or dates of columns of texts, found by trying."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd
from pandas.api import types

from bilevel_cli.data.table.amounts import kind, pattern
from bilevel_cli.data.table.dialect import ORDERS, Dialect
from bilevel_cli.data.table.name import Value
from bilevel_cli.data.table.near import ISO, MARKER, NUMBERS, PLAIN, Near, near
from bilevel_cli.data.table.understood import is_text

FEW = 5  # different texts among numbers that may mean a missing value
WORDS = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}
MINUS = {
    "parentheses": "parentheses for a minus",
    "trailing": "a minus at the end",
    "typographic": "long minus signs",
}


class Roles(NamedTuple):
    """What columns are for, besides inputs. None is no column.

    Attributes:
        target: To be predicted.
        classes: Whether the target has classes, which may be any texts.
        others: No inputs, such as columns that are left out, and `names`.
        names: Of rows, which stay as they are written.
    """

    target: str | None
    classes: bool
    others: tuple[str | None, ...]
    names: str | None

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The columns that may well be texts."""
        return (self.target, *self.others) if self.classes else self.others


class Choice(NamedTuple):
    """A value that means one thing with a setting and another with another.

    Attributes:
        title: Of the column.
        word: The value.
        meanings: The settings and what the value means with them, two times.
    """

    title: str
    word: str
    meanings: tuple[tuple[dict[str, Value], str], tuple[dict[str, Value], str]]


@dataclass
class Proposal:
    """What a dialect leaves as texts although they look like something else.

    Attributes:
        dialect: One that reads the table.
        looks: What columns look like, by their titles.
        faults: What no setting mends, a phrase each, by the titles of the columns.
        choices: What the values alone do not tell.
    """

    dialect: Dialect
    looks: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.looks or self.faults or self.choices)

    def change(self, **settings: Any) -> None:
        """Another dialect."""
        self.dialect = replace(self.dialect, **settings)


def proposed(
    frame: pd.DataFrame, fields: Callable[[], pd.DataFrame], dialect: Dialect, roles: Roles
) -> Proposal:
    """What would make numbers and dates of the columns of texts that look like some.

    Args:
        frame: As it is read in the dialect.
        fields: Gives the same columns as texts.
        dialect: In which it was read.
        roles: Of the columns.
    """
    others = [title for title in frame.columns if title not in (*roles.labels, *dialect.text)]
    cases, proposal = [], Proposal(dialect)
    for title in others:
        case = near(title, frame[title], dialect) if is_text(frame[title]) else None
        if case is not None and case.fault:
            proposal.faults[title] = f"{title!r} has {case.fault}"
        elif case is not None:
            cases.append(case)
    _numbers([case for case in cases if not case.dated and not case.plain], proposal)
    _dates([case for case in cases if case.dated and not case.plain], proposal)
    if dialect != proposal.dialect or not proposal:
        _grouped(frame[others], fields, proposal)
    _strays(cases, frame, proposal, roles)
    return proposal


def _numbers(cases: Sequence[Near], proposal: Proposal) -> None:
    """The decimal sign and the separator of thousands that read most columns, and their signs."""
    said = proposal.dialect
    ways = [
        (decimal, thousands)
        for decimal, thousands in NUMBERS
        if said.decimal in (".", decimal)
        and (said.thousands is None or said.thousands in kind(thousands))
        and (said.thousands != "" or not thousands)
    ]
    way = _best(cases, ways, proposal, "numbers")
    if way is None:
        return
    decimal, thousands = way
    proposal.change(decimal=decimal, thousands=thousands or said.thousands)
    for case in cases:
        if way not in case.ways:
            continue
        bare = case.bare[case.ways[way]]
        comma = decimal == "," and bare.str.contains(",", regex=False).any()
        apart = thousands and bare.str.contains(f"[{re.escape(kind(thousands))}]").any()
        sure = not proposal.choices
        looks = ["a decimal comma"] * bool(comma and said.decimal != "," and sure)
        if apart and not said.thousands and sure:
            looks.append(f"thousands {WORDS[thousands]}")
        looks += [f"the sign {sign!r}" for sign in case.signs]
        looks += [MINUS[name] for name in case.negatives]
        if looks:
            proposal.looks[case.title] = f"numbers with {', '.join(looks)}"
        dialect = proposal.dialect
        proposal.change(
            signs=tuple(dict.fromkeys((*dialect.signs, *case.signs))),
            negatives=tuple(dict.fromkeys((*dialect.negatives, *case.negatives))),
        )


def _dates(cases: Sequence[Near], proposal: Proposal) -> None:
    """The order of day, month and year that reads most columns."""
    orders = [order for order in ORDERS if proposal.dialect.dates in (None, order)]
    if all(case.words.str.contains(r"\d\.").all() for case in cases):  # no one writes 12.31.2024
        orders.sort(key=lambda order: order == "month_first")
    order = _best(cases, orders, proposal, "dates")
    if order is not None and order != proposal.dialect.dates:
        proposal.change(dates=order)
        if not any("dates" in choice.meanings[0][0] for choice in proposal.choices):
            looks = f"dates, {order.replace('_', ' ')}"
            proposal.looks |= {case.title: looks for case in cases if order in case.ways}


def _best(cases: Sequence[Near], ways: Sequence[Any], proposal: Proposal, what: str) -> Any:
    """The first way that reads most columns; None if none reads any. Notes what it does not."""
    counts = [sum(way in case.ways for case in cases) for way in ways]
    most = max(counts, default=0)
    best = [way for way, count in zip(ways, counts, strict=True) if count == most and most]
    for case in cases:
        if not best or best[0] not in case.ways:
            word = next(iter(case.words))
            proposal.faults[case.title] = f"{case.title!r} has {what} written otherwise, {word!r}"
    for other in best[1:]:
        for case in cases:
            word = case.differ(best[0], other)
            if word is not None and not (what == "dates" and "." in word):
                proposal.choices.append(_choice(case, word, best[0], other))
                return best[0]
    return best[0] if best else None


def _choice(case: Near, word: str, one: Any, other: Any) -> Choice:
    def setting(way: Any) -> dict[str, Value]:
        if isinstance(way, str):
            return {"dates": way}
        decimal, thousands = way
        return {"thousands": thousands} if decimal == "." else {"decimal": decimal}

    first, second = ((setting(way), case.shown(word, way)) for way in (one, other))
    return Choice(case.title, word, (first, second))


def _grouped(frame: pd.DataFrame, fields: Callable[[], pd.DataFrame], proposal: Proposal) -> None:
    """Numbers such as 1.234 where that point may separate thousands: one of them is noted."""
    dialect = proposal.dialect
    comma = dialect.decimal == ","
    # Between commas, a decimal comma is rare.
    if dialect.thousands is not None or (dialect.separator == "," and not comma):
        return
    for title in frame.columns:
        if not types.is_float_dtype(frame[title].dtype):
            continue
        words = fields()[title].dropna().str.strip()
        points = words.str.contains(".", regex=False)
        if not points.any() or not words.str.fullmatch(pattern(",", ".")).all():
            continue
        # A program writes 12.500 and 7.000, or 12.5 and 7: only a point of thousands gives 12.500
        # and 7. With a decimal comma elsewhere, no such evidence is asked for.
        if comma or (words[points].str.endswith("0").any() and (~points).any()):
            word = str(words[points].iloc[0])
            whole: dict[str, Value] = {"decimal": ","} if not comma else {}
            point: dict[str, Value] = {"thousands": ""}
            whole["thousands"] = "."
            meanings = (whole, word.replace(".", "")), (point, word)
            proposal.choices.append(Choice(title, word, meanings))
            return


def _strays(cases: Sequence[Near], frame: pd.DataFrame, proposal: Proposal, roles: Roles) -> None:
    """Texts among numbers or dates: markers of missing values, or mistakes."""
    dialect = proposal.dialect
    for case in cases:
        ways = (ISO, PLAIN) if case.plain else (dialect.dates, _pair(dialect))
        way = next((way for way in ways if way in case.ways), None)
        words = [] if way is None else case.strays(way).tolist()
        if not words or case.title == roles.target:  # nothing may be missing of an amount
            continue
        texts = frame[case.title]
        strays = texts[texts.str.strip().isin(words)].unique().tolist()  # with their blanks
        labels = (set(frame[title].map(str)) for title in roles.labels if title in frame)
        what = "dates" if case.dated else "numbers"
        short = all(len(one) <= 20 and one.isprintable() for one in strays)
        digits = any(re.search("[0-9]", one) and not re.fullmatch(MARKER, one) for one in strays)
        if len(strays) <= FEW and short and not digits and not set(strays) & set().union(*labels):
            looks = proposal.looks.get(case.title, what)
            proposal.looks[case.title] = f"{looks} but for {', '.join(map(repr, strays))}"
            proposal.change(missing=tuple(dict.fromkeys((*proposal.dialect.missing, *strays))))
        else:
            row = int((texts == strays[0]).to_numpy(bool, na_value=False).argmax())
            looks = f"{case.title!r} has {what} but for {strays[0][:40]!r} in row {row}"
            proposal.faults[case.title] = looks


def _pair(dialect: Dialect) -> tuple[str, str]:
    decimal, thousands = dialect.numbers
    return decimal, thousands and kind(thousands)[0]

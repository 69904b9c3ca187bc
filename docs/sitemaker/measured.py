"""The numbers of docs/measured/, which `make docs` writes."""

import csv
import re
from functools import cache
from pathlib import Path

import pandas as pd

from sitemaker import markdown

FOLDER = Path(__file__).parents[1] / "measured"


@cache
def read(name: str) -> pd.DataFrame:
    """A table of texts, a row for each method."""
    return pd.read_csv(FOLDER / f"{name}.csv", dtype=str, keep_default_na=False).set_index("method")


def row(name: str, method: str, what: str, group: str = "") -> str:
    """What one table says of one method, a line for each column; nothing where it says nothing.

    Args:
        name: Of the table.
        method: Of the row.
        what: What the names of its columns are, as a heading.
        group: The group whose options they are, if any.
    """
    table = read(name)
    if method not in table.index:
        return ""
    lines = [
        [f"`{group}={column}`" if group else column, _escaped(table.loc[method, column])]
        for column in table.columns
        if table.loc[method, column]
    ]
    return markdown.table([what, "measured"], lines)


def reasons(name: str, text: str) -> list[tuple[str, str]]:
    """The letters of refusals that occur in a text, with what they stand for."""
    with (FOLDER / f"{name}_refusals.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [(letter, reason) for letter, reason in rows if f"refused ({letter})" in text]


def whole(name: str, link: str) -> str:
    """A whole table; `link` makes a link of a method's name."""
    table = read(name)
    rows = [[link.format(method), *map(_escaped, values)] for method, *values in table.itertuples()]
    return markdown.table(["method", *table.columns], rows)


def _escaped(value: object) -> str:
    text = str(value)
    # As code a number is not broken at its minus.
    return f"`{text}`" if re.fullmatch(r"[\d.]+e[-+]\d+", text) else markdown.escaped(text)

"""Numbers as people write them: what is one, and pandas' reading of a column of these."""

import csv
import io
import re
from functools import lru_cache

import pandas as pd

from bilevel_cli.data.table.dialect import APOSTROPHES, SPACES, Dialect

DASHES = "\u2212\u2013\u2014"  # minus sign, en dash, em dash


@lru_cache
def pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    """What a number looks like: groups of three digits, or of two before the last as in India."""
    whole = "[0-9]+"
    if thousands:
        s = f"[{re.escape(kind(thousands))}]"
        whole += f"|[1-9][0-9]{{0,2}}(?:{s}[0-9]{{3}})+|[1-9][0-9]?(?:{s}[0-9]{{2}})+{s}[0-9]{{3}}"
    d = re.escape(decimal)
    return re.compile(f"[+-]?(?:(?:{whole})(?:{d}[0-9]*)?|{d}[0-9]+)(?:[eE][+-]?[0-9]+)?")


def kind(thousands: str) -> str:
    """All separators of thousands that one stands for: those of its kind, or itself."""
    return next((one for one in (SPACES, APOSTROPHES) if thousands in one), thousands)


def bare(texts: pd.Series, signs: tuple[str, ...], negatives: tuple[str, ...]) -> pd.Series:
    """The texts without signs, each negative number with a hyphen before it.

    Args:
        texts: Of strings.
        signs: As in a `Dialect`.
        negatives: As in a `Dialect`.
    """
    found = _without(texts.str.strip(), signs)
    if "typographic" in negatives:
        found = found.str.replace(f"^[{DASHES}]\\s*", "-", regex=True)
    if "trailing" in negatives:
        found = found.str.replace(f"^(.*[0-9.,])\\s*[-{DASHES}]$", r"-\1", regex=True)
    if "parentheses" in negatives:
        found = found.str.replace(r"^\((.*)\)$", r"-\1", regex=True)
    return _without(found, signs)  # as in (5 EUR) and 5- EUR


def _without(texts: pd.Series, signs: tuple[str, ...]) -> pd.Series:
    if not signs:
        return texts
    some = "|".join(map(re.escape, sorted(signs, key=len, reverse=True)))
    texts = texts.str.replace(rf"^([-+(]?|[{DASHES}])\s*(?:{some})\s*", r"\1", regex=True)
    return texts.str.replace(rf"\s*(?:{some})\s*([-)]?|[{DASHES}])$", r"\1", regex=True)


def are_numbers(texts: pd.Series, dialect: Dialect) -> pd.Series:
    """Which of the texts are numbers in this dialect, booleans. `texts` are `bare`."""
    return texts.str.fullmatch(pattern(*dialect.numbers)).astype(bool)


def missing(texts: pd.Series) -> pd.Series:
    """Which of the texts pandas takes for missing values unless it is told otherwise, booleans."""
    read = pd.read_csv(
        io.StringIO("\n".join(["x", *texts.str.replace(r"[\t\r\n]", " ", regex=True), ""])),
        sep="\t",
        dtype=str,
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )
    return read["x"].isna().set_axis(texts.index)


def numbers(texts: pd.Series, dialect: Dialect) -> pd.Series:
    """The numbers that pandas reads in texts all of which are numbers, or missing.

    Args:
        texts: `bare`, NaN where a value is missing.
        dialect: Of which they are.
    """
    decimal, thousands = dialect.numbers
    if thousands:
        texts = texts.str.replace(f"[{re.escape(kind(thousands))}]", thousands, regex=True)
    read = pd.read_csv(
        io.StringIO("\n".join(["x", *texts.fillna(""), ""])),
        sep="\t",
        decimal=decimal,
        thousands=thousands or None,
        skip_blank_lines=False,
    )
    return read["x"].set_axis(texts.index)

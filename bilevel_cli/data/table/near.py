"""A column of texts that look like numbers or dates, and what each way to read them makes of it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilevel_cli.data.table import amounts, dates
from bilevel_cli.data.table.dialect import ORDERS, SPACES, Dialect

MOST = 0.9  # share of the values that must be numbers, or dates; markers are no values
FEW = 5  # different words among many numbers that may be markers
# Pairs of a decimal sign and a separator of thousands.
Way = tuple[str, str] | str
NUMBERS = tuple(
    (decimal, thousands)
    for thousands in ("", ",", ".", "'", " ")
    for decimal in ".,"
    if decimal != thousands
)
PLAIN = (".", "")
ISO = "iso"  # the order of dates that needs no setting
EDGE = f"\t{SPACES}()+-{amounts.DASHES}"
FLAT = tuple(f"{sign}{dash}" for sign in ",." for dash in f"-{amounts.DASHES}")  # as in 12,-
PER_CENT = ("%", "\u2030")
UNIT = re.compile(r"(?:[^\W\d_]|[\u00b0/]){1,10}\.?")  # in letters of any script
NO_DATE = r"(?:0000[-/.]00[-/.]00|00[-/.]00[-/.]0000)(?: 00:00(?::00(?:\.0+)?)?)?"
# What stands for a missing value and is none: punctuation (. of SAS, ?, -), \N of databases, errors
# of spreadsheets in any language, and the date without a day of MySQL.
MARKER = rf"[\W_]*|\\N|#\W?[^\W\d_]+(?:/(?:[^\W\d_]|0))?[!?]?|{NO_DATE}"
# Dates with the names of days, or of months in other languages than English.
YEAR, HOUR = r"(?:19|20)\d{2}", r"\d{1,2}:\d{2}(?::\d{2})?"
WORDY = re.compile(
    rf"(?:[^\W\d_]{{2,10}}[.,]? )?\d{{1,2}}(?:\.|er)? (?:de )?[^\W\d_]{{3,12}}\.?,? (?:de )?{YEAR}"
    rf"(?:[ ,]+{HOUR}.*)?|[^\W\d_]{{2,10}}[.,]? [^\W\d_]{{3,10}} +\d{{1,2}},? (?:{HOUR}.* )?{YEAR}"
)
# Codes and short names of currencies; their symbols are known to Unicode.
CURRENCIES = (
    "EUR USD GBP CHF JPY CNY INR SEK NOK DKK ISK PLN CZK HUF RON BGN TRY RUB UAH BRL MXN ARS CLP "
    "COP CAD AUD NZD ZAR KRW SGD HKD TWD THB IDR MYR PHP VND ILS AED SAR EURO FR SFR KR RS FT LEI "
    "DM TL Z\u0141 K\u010c"
)
CODE = 9  # digits in equal groups in every value: a telephone number or another code


@dataclass(frozen=True)
class Near:
    """A column of texts most of which are numbers or dates, read in some way.

    Attributes:
        title: Of the column.
        words: Its different texts.
        bare: These without signs, negative ones with a hyphen.
        signs: To be removed from them, besides those of the dialect.
        negatives: How negative ones are written, besides what the dialect says.
        fault: What no setting mends, such as numbers of several kinds, or an empty text.
        ways: By pair of NUMBERS or by order of dates: which words are read, boolean, of the shape
            of `words`. Only the ways that read most values, which are MOST of them or more.
    """

    title: str
    words: pd.Series
    bare: pd.Series
    signs: tuple[str, ...]
    negatives: tuple[str, ...]
    fault: str
    ways: dict[Way, NDArray[np.bool_]]

    @property
    def plain(self) -> bool:
        """Whether pandas reads all that can be read, with no setting."""
        new = self.signs or self.negatives
        return ISO in self.ways or (PLAIN in self.ways and not new)

    @property
    def dated(self) -> bool:
        """Whether they are dates."""
        return any(isinstance(way, str) for way in self.ways)

    def strays(self, way: Way) -> pd.Series:
        """The words that a way does not read."""
        return self.words[~self.ways[way]]

    def differ(self, way: Way, other: Way) -> str | None:
        """A word that two ways read as different values, or None."""
        if way not in self.ways or other not in self.ways:
            return None
        both = self.words[self.ways[way] & self.ways[other]]
        one, two = (_values(both, self.bare[both.index], each) for each in (way, other))
        unlike = both[(one != two).to_numpy()]
        return None if unlike.empty else str(unlike.iloc[0])

    def shown(self, word: str, way: Way) -> str:
        """What a way makes of a word, in a form that cannot be misread."""
        text = pd.Series([word])
        bare = amounts.bare(text, self.signs, self.negatives)
        value = _values(text, bare, way).iloc[0]
        return f"{value:%Y-%m-%d}" if isinstance(value, pd.Timestamp) else str(value)


def near(title: str, column: pd.Series, dialect: Dialect) -> Near | None:
    """A column of texts as numbers or dates; None where it looks like neither, or like codes.

    Args:
        title: Of the column.
        column: Of texts, NaN where there is none.
        dialect: What is known already.
    """
    counts = column.dropna().str.strip().value_counts()
    words, weights = pd.Series(counts.index.astype(object), dtype=object), counts.to_numpy()

    values = ~_markers(words, weights)
    total = weights[values].sum()

    def most(where: pd.Series) -> bool:
        return bool(weights[where & values].sum() >= MOST * total)

    other_digits = words.str.fullmatch(r"[+-]?\d[\d\W]*") & ~words.str.contains("[0-9]")
    if values.any() and most(other_digits.astype(bool)):
        fault = f"numbers in other digits than 0 to 9, {words[values].iloc[0]!r}"
        return Near(title, words, words, (), (), fault, {})
    if not values.any() or not most(words.str.contains("[0-9]")):
        return None
    read: dict[Way, pd.Series] = {order: dates.moments(words, order).notna() for order in ORDERS}
    read[ISO] = words.str.match(dates.ISO) & ~words.str.match(NO_DATE)
    if any(map(most, read.values())):
        return Near(title, words, words, (), (), "", _best(read, weights))
    if fault := _several("dates", words, read, most):
        return Near(title, words, words, (), (), fault, {})
    if most(words.str.fullmatch(WORDY).astype(bool)):
        fault = f"dates in words that are not read, {words[values].iloc[0]!r}"
        return Near(title, words, words, (), (), fault, {})
    signs, mixed = _signs(words[values], weights[values], dialect)
    bare = amounts.bare(words, (*dialect.signs, *signs), dialect.negatives)
    negatives = _negatives(bare, dialect)
    bare = amounts.bare(bare, (*dialect.signs, *signs), (*dialect.negatives, *negatives))
    if _codes(bare):
        return None
    read = {way: bare.str.fullmatch(amounts.pattern(*way)) for way in NUMBERS}
    fault = f"numbers of several kinds, with {_listed(mixed)}" if mixed else ""
    if any(map(most, read.values())):
        return Near(title, words, bare, signs, negatives, fault, _best(read, weights))
    fault = _several("numbers", words, read, most)
    return Near(title, words, bare, (), (), fault, {}) if fault else None


def _markers(words: pd.Series, weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Which words are no values but stand for missing ones, however often they are there."""
    named = ~words.str.contains("[0-9]").to_numpy(bool)
    found = words.str.fullmatch(MARKER).to_numpy(bool, copy=True)
    # Of many different numbers and a few words, the words are the odd ones.
    if (
        named.sum() <= FEW
        and (~named).sum() >= 2 * FEW
        and weights[~named].sum() > weights.sum() / 2
    ):
        found |= named
    return found


def _several(
    what: str, words: pd.Series, read: Mapping[Way, pd.Series], most: Callable[[pd.Series], bool]
) -> str:
    """That no way reads most words and all ways together do, or an empty text."""
    ways = sorted(read.values(), key=lambda where: -where.sum())
    if not most(pd.concat(ways, axis=1).any(axis=1)):
        return ""
    one, other = words[ways[0]], words[~ways[0] & pd.concat(ways[1:], axis=1).any(axis=1)]
    return f"{what} of several kinds, with {_listed((one.iloc[0], other.iloc[0]))}"


def _listed(signs: Sequence[str]) -> str:
    return " and ".join(repr(sign) if sign else "none" for sign in signs[:3])


def _best(read: Mapping[Way, pd.Series], weights: NDArray[Any]) -> dict[Way, NDArray[np.bool_]]:
    shares = {way: weights[where.to_numpy(bool)].sum() for way, where in read.items()}
    most = max(shares.values())
    return {way: read[way].to_numpy(bool) for way, share in shares.items() if share == most}


def _values(words: pd.Series, bare: pd.Series, way: Way) -> pd.Series:
    if isinstance(way, str):
        return dates.moments(words, way)
    decimal, thousands = way
    if thousands:
        bare = bare.str.replace(f"[{re.escape(amounts.kind(thousands))}]", "", regex=True)
    return bare.str.replace(decimal, ".", regex=False)


def _signs(
    words: pd.Series, weights: NDArray[Any], dialect: Dialect
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The signs at the ends of words; and those of them that do not go together."""
    before = words.str.extract("^([^0-9]*)")[0].str.strip(EDGE)
    after = words.str.extract("([^0-9]*)$")[0].str.strip()
    after = after.where(after.isin(FLAT), after.str.strip(EDGE))
    shares = Counter[tuple[str, bool]]()
    for ends, behind in ((before, False), (after, True)):
        for end, weight in zip(ends, weights, strict=True):
            shares[end, behind] += weight
    signs = []
    for (end, behind), share in shares.items():
        unit = bool(UNIT.fullmatch(end)) and share >= MOST * weights.sum()
        known = end in ("", ".", ",", *dialect.signs)
        if not known and (_is_money(end) or end in PER_CENT or (behind and (end in FLAT or unit))):
            signs.append(end)
    signs = list(dict.fromkeys(signs))
    shared = [sign for sign in signs if sign in PER_CENT]
    bare = words[~words.str.contains("|".join(PER_CENT))]
    if shared and bare.str.contains("[1-9]").any():  # is 0.5 a half, or half a per cent?
        return tuple(signs), (*shared, "")
    kinds = {sign.casefold() for sign in signs if sign not in FLAT}
    return tuple(signs), tuple(signs) if len(kinds) > 1 else ()


def _is_money(sign: str) -> bool:
    symbol = any(unicodedata.category(letter) == "Sc" for letter in sign)
    return (symbol and len(sign) <= 4) or sign.rstrip(".").upper() in CURRENCIES.split()


def _negatives(bare: pd.Series, dialect: Dialect) -> tuple[str, ...]:
    dash = amounts.DASHES
    closed = bare.str.fullmatch(r"\(.*[0-9].*\)")
    found = {
        "parentheses": closed.any() and not closed.all(),
        "trailing": bare.str.contains(f"[0-9]\\s*[-{dash}]$").any(),
        "typographic": bare.str.contains(f"^[{dash}]\\s*[0-9.,]").any(),
    }
    return tuple(name for name, there in found.items() if there and name not in dialect.negatives)


def _codes(bare: pd.Series) -> bool:
    """Whether the texts are rather codes, telephone numbers or the like."""
    plain = bare[bare.str.fullmatch("[+-]?[0-9]+")]
    if plain.str.match("[+-]?0[0-9]").any() or bare.str.match(r"\+[0-9 ]{8,}$").any():
        return True
    grouped = bare[bare.str.contains("[0-9] [0-9]")]
    digits = grouped.str.replace("[^0-9]", "", regex=True).str.len()
    return len(digits) > 1 and digits.nunique() == 1 and digits.iloc[0] >= CODE

"""Dates as people write them, in one order of day, month and year."""

import re

import pandas as pd

DATE = {
    # The separator of a date becomes a hyphen before: 31.12.2024 and 31/12/2024 are one.
    "year_first": ("%Y-%m-%d",),
    "day_first": ("%d-%m-%Y", "%d-%m-%y", "%d-%b-%Y", "%d-%b-%y", "%d-%B-%Y", "%d%b%Y", "%d%b%y"),
    "month_first": ("%m-%d-%Y", "%m-%d-%y", "%b-%d-%Y", "%B-%d-%Y"),
}
TIME = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
NUMBERS = r"\d{1,2}[./-] ?\d{1,2}[./-] ?(?:\d{4}|\d{2})|\d{4}[./-] ?\d{1,2}[./-] ?\d{1,2}\.?"
NUMBERS += (
    "|\\d{4}[\u5e74\ub144] ?\\d{1,2}[\u6708\uc6d4] ?\\d{1,2}[\u65e5\uc77c]"  # Chinese, Korean
)
WORDS = r"\d{1,2}[ .-]*[A-Za-z]{3,9}[ .,-]*(?:\d{4}|\d{2})|[A-Za-z]{3,9}[ .]+\d{1,2}[ ,]+\d{4}"
ISO = r"\d{4}-\d{2}-\d{2}(?:$|[T ]\d{2}:)"  # how one begins that needs no setting
CLOCK = r"(?:\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?: *[AaPp][Mm])?)"
SHAPE = re.compile(rf"\s*({NUMBERS}|{WORDS})(?:,? +|,?T|:|$)({CLOCK})?\s*", re.ASCII)


def moments(texts: pd.Series, order: str) -> pd.Series:
    """The moments that pandas reads in texts, NaT where one is no date in this order.

    A date of the other order is none, even where it could be no other day: `dayfirst` alone would
    read 12/31/2024 all the same.

    Args:
        texts: Of strings, or NaN.
        order: year_first, day_first or month_first.
    """
    found = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[us]", name=texts.name)
    parts = texts[texts.str.fullmatch(SHAPE).fillna(False).astype(bool)].str.extract(SHAPE)
    day = parts[0].str.replace("[^0-9A-Za-z]+", "-", regex=True).str.strip("-")
    clock = parts[1].fillna("").str.replace(r" *([AaPp][Mm])", r" \1", regex=True)
    texts = (day + " " + clock).str.strip()
    for date in DATE[order]:
        for time in TIME:
            if texts.empty:
                return found
            read = pd.to_datetime(texts, format=date + time, errors="coerce").dropna()
            found.loc[read.index] = read.astype("datetime64[us]")
            texts = texts.drop(read.index)
    return found

"""The columns of texts that are numbers or dates in a dialect become these."""

from collections.abc import Collection

import pandas as pd
from pandas.api import types

from bilevel_cli.data.table import amounts, dates
from bilevel_cli.data.table.dialect import Dialect


def understood(
    frame: pd.DataFrame,
    texts: pd.DataFrame | None,
    dialect: Dialect,
    names: Collection[str | None],
) -> pd.DataFrame:
    """The frame, with numbers and dates in place of the texts that are some.

    A column is read so only if all of its values can be. What is a number with a decimal point
    throughout stays one, whatever the decimal sign of the other columns.

    Args:
        frame: As pandas reads it by itself.
        texts: The same columns as texts, if these may be other numbers than pandas' own.
        dialect: How values are written.
        names: Columns that are no inputs, which stay as they are.
    """
    frame = frame.copy(deep=False)
    for title in [title for title in frame.columns if title not in names]:
        column = frame[title]
        if title in dialect.text:
            if not is_text(column):
                frame[title] = column.astype(object).map(str, na_action="ignore")
            continue
        source = column if texts is None else texts[title]
        if not is_text(source) or types.is_bool_dtype(column.dtype):
            continue
        source = source.reset_index(drop=True)
        if dialect.missing:  # of a file that is not CSV
            source = source.mask(source.isin(dialect.missing))
        found = _numbers(source, dialect)
        if found is None and dialect.dates is not None and is_text(column):
            found = _moments(source, dialect.dates, dialect.keep_default_na)
        if found is not None:
            frame[title] = found.set_axis(frame.index)
        elif dialect.missing and is_text(column):
            frame[title] = source
    return frame


def is_text(column: pd.Series) -> bool:
    """Whether all values that are there are texts, and there are some."""
    return bool(types.infer_dtype(column, skipna=True) == "string")


def _numbers(texts: pd.Series, dialect: Dialect) -> pd.Series | None:
    written = (*dialect.numbers, dialect.signs, dialect.negatives, dialect.keep_default_na)
    if written == (".", "", (), (), True):  # pandas has tried
        return None
    present = texts.dropna()
    usual = amounts.pattern(".", "") if dialect.numbers == (".", "") else "[+-]?[0-9]+"
    if present.str.fullmatch(usual).all():
        return None  # pandas reads these in a CSV file; in others they are texts on purpose
    present = amounts.bare(present, dialect.signs, dialect.negatives)
    other = present[~amounts.are_numbers(present, dialect)]
    # Of NA and None alone, the labels NA and None.
    if len(other) == len(present) or (len(other) and not _none(other, dialect.keep_default_na)):
        return None
    found = amounts.numbers(present.drop(other.index).reindex(texts.index), dialect)
    return found if types.is_numeric_dtype(found.dtype) else None


def _moments(texts: pd.Series, order: str, keep_default_na: bool) -> pd.Series | None:
    found = dates.moments(texts, order)
    other = texts[found.isna() & texts.notna()]
    empty = found.isna().all() or (len(other) and not _none(other, keep_default_na))
    return None if empty else found


def _none(texts: pd.Series, keep_default_na: bool) -> bool:
    """Whether texts are no values, among numbers or dates: NA is a class at most."""
    return not keep_default_na and bool(amounts.missing(texts).all())

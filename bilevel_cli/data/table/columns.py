"""The columns of a table: what their values are, and the numbers that one becomes."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from bilevel_cli.data.reading import files
from bilevel_cli.data.table import dates
from bilevel_cli.data.table.name import Name
from bilevel_cli.data.table.parquet import NoScalar
from bilevel_cli.data.table.understood import is_text

Column = pd.Series
FEW = 5  # different texts that a message shows


class Feature(NamedTuple):
    """What one column becomes.

    Attributes:
        kind: "number", "date", "duration", "boolean" or "category".
        values: Shape [n, features]. For a number, a date or a duration (both in days) the first
            feature is its value, NaN where it is missing; the second, if there is one, says where
            it is missing.
    """

    kind: str
    values: NDArray[Any]

    @property
    def scaled(self) -> list[bool]:
        """Which of the features are amounts, to be standardised."""
        amount = self.kind in ("number", "date", "duration")
        return [amount and position == 0 for position in range(self.values.shape[1])]


class Encoded(NamedTuple):
    """The columns that serve as inputs, as numbers.

    Attributes:
        features: What each column becomes, by its name.
        left_out: The names of columns that say nothing, quoted.
    """

    features: dict[str, Feature]
    left_out: list[str]

    @property
    def x(self) -> NDArray[np.float64]:
        """All features, of shape [n, features], with NaN for missing numbers."""
        values = [feature.values for feature in self.features.values()]
        return np.concatenate(values, 1, dtype=np.float64)

    @property
    def scaled(self) -> list[bool]:
        """Which features are amounts, one entry for each column of `x`."""
        return [scaled for feature in self.features.values() for scaled in feature.scaled]

    @property
    def statement(self) -> str:
        """How many columns of each kind there are, and which were left out."""
        kinds = [feature.kind for feature in self.features.values()]
        counts = [f"{kinds.count(kind)} of kind {kind}" for kind in dict.fromkeys(kinds)]
        text = f"{len(self.scaled)} features from {len(kinds)} columns ({', '.join(counts)})"
        return text + (f"; left out {', '.join(self.left_out)}" if self.left_out else "")


def encoded(
    frame: pd.DataFrame, name: Name, text: Collection[str], max_levels: int, max_megabytes: float
) -> Encoded:
    """All columns as features.

    Args:
        frame: The columns that serve as inputs.
        name: Of the table, for messages.
        text: Columns that are categories, whatever they look like.
        max_levels: Largest number of levels of a category.
        max_megabytes: Largest size of all features, of 8 bytes each.

    Raises:
        ValueError: A column cannot be encoded, or the features take more than `max_megabytes`.
    """
    features: dict[str, Feature] = {}
    left_out = []
    size = 0
    for title, column in frame.items():
        feature = feature_of(column, name, text, max_levels)
        if feature is None:
            left_out.append(repr(title))
            continue
        features[str(title)] = feature
        size += feature.values.shape[1] * len(frame) * 8
        if size > max_megabytes * 1e6:
            raise files.too_large(name.who, f"{name.path} as numbers", max_megabytes)
    return Encoded(features, left_out)


def feature_of(
    column: Column, name: Name, text: Collection[str], max_levels: int
) -> Feature | None:
    """What a column becomes; None where it has one value alone or numbers the rows.

    Args: as `encoded`.

    Raises:
        ValueError: A number is infinite, a date is none, a category has too many levels, or the
            values are lists or the like.
    """
    refuse_no_scalars(column, name)
    absent = column.isna().to_numpy()
    if column.name in text:
        feature = _category(column, absent, name, max_levels)
    elif types.is_bool_dtype(column.dtype) and not absent.any():
        feature = Feature("boolean", column.to_numpy(bool)[:, None])
    elif types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        if not absent.any() and len(column) > 2 and (column.diff()[1:] == 1).all():
            return None  # numbers the rows
        feature = _amount("number", column, absent, name)
    elif types.is_timedelta64_dtype(column.dtype):
        feature = _amount("duration", in_days(column), absent, name)
    elif (days := _days(column, name)) is not None:
        feature = _amount("date", days, absent, name)
    else:
        feature = _category(column, absent, name, max_levels)
    varies = (feature.values[:1] != feature.values).any() and not absent.all()
    return feature if varies else None


def _amount(kind: str, column: Column, absent: NDArray[Any], name: Name) -> Feature:
    values = column.to_numpy(np.float64, na_value=np.nan)
    if np.isinf(values).any():
        raise bad(column, np.isinf(values), "finite numbers", name)
    return Feature(kind, np.stack([values, absent] if absent.any() else [values], 1))


def _category(column: Column, absent: NDArray[Any], name: Name, max_levels: int) -> Feature:
    texts = column.astype(object).where(~absent, None).map(str, na_action="ignore")
    numbers, levels = pd.factorize(texts, sort=True)
    if len(levels) > max_levels:
        raise ValueError(
            f"{name.who} needs at most {max_levels} levels in a column of texts, got "
            f"{len(levels)} in {column.name!r} of {name.path}, {_odd(column)}. Leave it "
            f"out by {name.spell('drop', (str(column.name),))}, or raise data.max_levels."
        )
    # factorize says -1 where a value is missing: the last row of the unit matrix.
    units = np.eye(len(levels) + bool(absent.any()), dtype=bool)
    return Feature("category", units[numbers])


def _odd(column: Column) -> str:
    """The value that makes a column of numbers one of texts, or any of its values."""
    numbers = pd.to_numeric(column, errors="coerce")
    texts = column[numbers.isna() & column.notna()]
    but = "numbers but for" if 0 < 2 * len(texts) < len(column) else "such as"
    some = texts if len(texts) else column.dropna()
    return f"{but} {str(some.iloc[0])[:40]!r} in row {some.index[0]}"


def in_days(column: Column) -> Column:
    """Durations in days; other columns as they are."""
    return column.dt.total_seconds() / 86400 if types.is_timedelta64_dtype(column.dtype) else column


def _days(column: Column, name: Name) -> Column | None:
    """Days since 1970 of a column of dates; None for others."""
    present = column.dropna()
    if types.is_datetime64_any_dtype(column.dtype):
        # pandas 2 would count nanoseconds in to_datetime, which end in 2262 without a word.
        zone = column.dt.tz
        moments = column.dt.tz_convert("UTC") if zone else column.dt.tz_localize("UTC")
    else:
        texts = present.astype(object).map(str)
        if present.empty or not texts.str.match(dates.ISO).all():
            return None
        moments = pd.to_datetime(column.astype(object), format="ISO8601", errors="coerce", utc=True)
        if len(moments.dropna()) < len(present):
            raise bad(column, (moments.isna() & column.notna()).to_numpy(), "dates", name)
    # Parsed from a text, 1970 has microseconds: in nanoseconds there is no year 9999.
    return (moments - pd.Timestamp("1970-01-01", tz="UTC")).dt.total_seconds() / 86400


def row_names(column: Column, name: Name) -> NDArray[np.object_]:
    """The values of a column that names the rows, as texts, of shape [n].

    Raises:
        ValueError: A value is missing, or there twice.
    """
    refuse_missing(column, name)
    if types.is_float_dtype(column.dtype) and (column % 1 == 0).all():
        column = column.map("{:.0f}".format)  # 7, which a gap once made 7.0
    names = column.map(str)
    if (twice := names.duplicated().to_numpy()).any():
        raise bad(column, twice, "a value of its own for each row", name)
    return names.to_numpy(object)


def marks(column: Column, name: Name) -> NDArray[np.bool_]:
    """The values of a column of booleans, or of 0 and 1, boolean, of shape [n].

    Raises:
        ValueError: It has other values.
    """
    refuse_missing(column, name)
    if not types.is_bool_dtype(column.dtype):
        other = (~column.isin([0, 1])).to_numpy()
        if other.any():
            raise bad(column, other, "true and false, or 1 and 0,", name)
    return column.to_numpy(bool, copy=True)


def refuse_missing(
    column: Column, name: Name, written: Callable[[], Column | None] | None = None
) -> None:
    """Raises ValueError unless there is a value in every row.

    Args:
        column: To look at.
        name: Of the table.
        written: Gives the column as it stands in the file, for columns in which NA and the like
            may be values.
    """
    absent = column.isna().to_numpy()
    if absent.any():
        rows = ", ".join(map(str, absent.nonzero()[0][:5]))
        way_out = way_out_of_missing(absent, None if written is None else written(), name)
        raise ValueError(
            f"{name.who} needs a value of {column.name!r} in every row, got none in "
            f"{absent.sum()} rows of {name.path}, such as {rows}. {way_out}"
        )


def refuse_no_scalars(column: Column, name: Name) -> None:
    """Raises ValueError if the values are lists, maps, structs or bytes."""
    first = column.iloc[0]
    if isinstance(first, NoScalar):
        raise ValueError(
            f"{name.who} needs numbers, texts, dates or booleans in column {column.name!r} of "
            f"{name.path}, got {first.kind[:60]}. Leave it out by "
            f"{name.spell('drop', (str(column.name),))}"
        )


def way_out_of_missing(absent: NDArray[Any], written: Column | None, name: Name) -> str:
    """What to do about missing labels: fill them in, or take NA and the like for labels.

    Args:
        absent: Which labels are missing, boolean, of shape [n].
        written: The labels as they stand in the file, if that is known.
        name: Of the table.
    """
    texts = [] if written is None else written[absent].str.strip().unique().tolist()
    words = [repr(text) for text in texts if text]
    if not words or len(words) > FEW:
        return "Fill them in or remove them."
    also = "; fill in the empty ones" if len(words) < len(texts) else ""
    option = name.spell("keep_default_na", False)
    return f"They hold {', '.join(words)}{also}. If that is a class, add {option}"


def trimmed(column: Column) -> tuple[Column, int]:
    """Labels without blanks at their ends, and how many had some. Blanks alone are no label."""
    if not is_text(column):
        return column, 0
    found = column.str.strip()
    return found.mask(found == ""), int((found != column)[column.notna()].sum())


def bad(column: Column, where: NDArray[Any], what: str, name: Name) -> ValueError:
    """The error of a column that has other values than it should.

    Args:
        column: The column.
        where: The rows with such values, boolean, of shape [n]; the message names the first.
        what: What the column should have.
        name: Of the table.
    """
    row = int(where.argmax())
    return ValueError(
        f"{name.who} needs {what} in column {column.name!r} of {name.path}, got "
        f"{str(column.iloc[row])[:40]!r} in row {row}. Correct it."
    )

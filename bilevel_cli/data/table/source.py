"""The user's own table, CSV or Parquet, of classes or of real targets."""

import abc
import csv
import importlib.util
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas.api import types
from torch import Tensor

from bilevel_cli.data.base import (
    SHARES,
    Labelled,
    Regression,
    Rows,
    Source,
    Splits,
    shared_out,
)
from bilevel_cli.data.reading import files
from bilevel_cli.data.reading.labels import numbered
from bilevel_cli.errors import hint

Column = pd.Series
TEXTS = ("string", "large_string", "binary", "large_binary")  # types of columns in a Parquet file


class Feature(NamedTuple):
    """What one column becomes.

    Attributes:
        kind: "number", "date", "boolean" or "category".
        values: Shape [n, features]; numbers are NaN where they are missing.
    """

    kind: str
    values: NDArray[Any]


class Encoded(NamedTuple):
    """A table as numbers.

    Attributes:
        pool: All rows; `x` is float64, with NaN for missing numbers.
        scaled: Which features are numbers and dates, boolean, of shape [features].
        clean: Which rows are known to be clean, boolean, of shape [n], or None.
        class_names: Of the classes; empty for a real target.
        statement: What became of the columns.
    """

    pool: Labelled
    scaled: Tensor
    clean: Tensor | None
    class_names: list[str]
    statement: str


class OwnTable(Source):
    r"""Rows of a CSV file (plain or gzipped) or of a Parquet file.

    Each column is, by its content, one of these:

        number      standardised by the training part; a missing one becomes the median of the
                    training part, and a feature of 0 and 1 says where
        boolean     0 or 1
        category    one-hot: a feature for each level, and one for missing values
        date        year-month-day, perhaps with a time: days since 1970, then as a number
        left out    of one value alone, or numbering the rows

    Rows are numbered from 0, the first after the header, unless `row_id` names a column of numbers.

    Args:
        path: Of the file.
        target: The column to predict.
        train: Number of training rows, or null.
        validation: Number of validation rows, or null; with `clean`, null for all clean rows.
        test: Number of test rows, or null. Nulls share what the others leave, as 60 : 20 : 20.
        drop: Columns to leave out.
        row_id: A column of distinct whole numbers by which results name the rows, or null.
        clean: A column of booleans, or of 0 and 1, that says which rows are known to be clean, or
            null. Validation rows are drawn from these; others of them serve for test before they
            serve for training.
        separator: Between the fields of a CSV file; \t is a tab.
        missing: Texts that mean a missing value, besides the empty field, NA, NaN, null and so on.
        max_levels: Largest number of levels of a category, and of classes.
        max_megabytes: Largest size of the file, unpacked, and of the table as numbers.
    """

    def __init__(
        self,
        path: str | None,
        target: str | None,
        train: int | None,
        validation: int | None,
        test: int | None,
        drop: list[str],
        row_id: str | None,
        clean: str | None,
        separator: str,
        missing: list[str],
        max_levels: int,
        max_megabytes: float,
    ) -> None:
        super().__init__(train, validation, test)
        for name, number in (("max_levels", max_levels), ("max_megabytes", max_megabytes)):
            if not number >= 1 or math.isinf(number):
                raise ValueError(f"{self._who} needs {name} >= 1, got {number}. Set data.{name}.")
        for name, texts in (("drop", drop), ("missing", missing)):
            if isinstance(texts, str):
                raise ValueError(
                    f"{self._who} needs {name} to be a list, got {texts!r}. "
                    f"Set 'data.{name}=[{texts}]'."
                )
        separator = separator.replace("\\t", "\t")
        if len(separator) != 1:
            raise ValueError(
                f"{self._who} needs a separator of one character, got {separator!r}. "
                "Set data.separator."
            )
        self.path, self.target, self.row_id, self.clean = path, target, row_id, clean
        self.drop, self.missing = list(map(str, drop)), list(map(str, missing))
        self.separator = separator
        self.max_levels, self.max_megabytes = max_levels, max_megabytes

    def read(self) -> tuple[Labelled, Labelled | None]:
        pool = self._encoded.pool
        return _finished(_filled(pool, pool)), None

    def splits(self, generator: torch.Generator) -> Splits:
        pool, scaled, clean, *_ = self._encoded
        if clean is None:
            parts = self.cut(pool, None, generator)
        else:
            parts = self._cut_clean(pool, clean, generator)
        parts = Splits(*(_filled(part, parts.train) for part in parts))
        std, mean = torch.std_mean(parts.train.x, dim=0, correction=0)
        std, mean = torch.where(scaled & (std > 0), std, 1), torch.where(scaled, mean, 0)
        return Splits(*(_finished(replace(part, x=(part.x - mean) / std)) for part in parts))

    @property
    def statement(self) -> str:
        return self._encoded.statement

    @abc.abstractmethod
    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        """The target as labels or numbers, of shape [n], and the names of classes."""

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _cut_clean(self, pool: Labelled, clean: Tensor, generator: torch.Generator) -> Splits:
        order = torch.randperm(len(clean), generator=generator)
        marked, unmarked = order[clean[order]], order[~clean[order]]
        count = len(marked) if self.validation is None else self.validation
        if not 1 <= count <= len(marked):
            raise ValueError(
                f"{self._who} needs validation <= {len(marked)}, the rows that column "
                f"{self.clean!r} calls clean, got {count}. Lower data.validation."
            )
        rest = torch.cat([unmarked, marked[count:]])
        train, test = shared_out([self.train, self.test], len(rest), (SHARES[0], SHARES[2]))
        self._require(train + test, len(rest), "train + test, besides clean rows for validation,")
        return Splits(*map(pool.take, (rest[:train], marked[:count], rest[len(rest) - test :])))

    @cached_property
    def _encoded(self) -> Encoded:
        frame = self._frame()
        target = self._column(frame, "target", self.target)
        features = frame.drop(columns=[str(target.name), *self._named(frame, self.drop)])
        index, clean = np.arange(len(frame)), None
        if self.row_id is not None:
            index = self._numbers(self._column(frame, "row_id", self.row_id))
            features = features.drop(columns=self.row_id, errors="ignore")
        if self.clean is not None:
            clean = self._marks(self._column(frame, "clean", self.clean))
            features = features.drop(columns=self.clean, errors="ignore")
        self._refuse_missing(target)
        y, class_names = self.as_targets(target)
        encoded: dict[str, Feature] = {}
        left_out = []
        size = 0
        for name, column in features.items():
            feature = self._feature(column)
            if feature is None:
                left_out.append(repr(name))
                continue
            encoded[str(name)] = feature
            size += feature.values.shape[1] * len(frame) * 8
            if size > self.max_megabytes * 1e6:
                raise files.too_large(self._who, f"{self.path} as numbers", self.max_megabytes)
        if not encoded:
            raise ValueError(
                f"{self._who} needs a column to predict {self.target!r} from, got none that "
                f"varies in {self.path}. Add columns, or drop fewer."
            )
        x = np.concatenate([feature.values for feature in encoded.values()], 1, dtype=np.float64)
        statement = self._stated(len(frame), x.shape[1], encoded, left_out)
        scaled = [
            # Of a number, the first feature is its value and the second says where it is missing.
            feature.kind in ("number", "date") and position == 0
            for feature in encoded.values()
            for position in range(feature.values.shape[1])
        ]
        pool = Labelled(torch.from_numpy(x), y, torch.from_numpy(index))
        return Encoded(pool, torch.tensor(scaled), clean, class_names, statement)

    def _stated(
        self, rows: int, width: int, encoded: dict[str, Feature], left_out: list[str]
    ) -> str:
        kinds = [feature.kind for feature in encoded.values()]
        counts = [f"{kinds.count(kind)} of kind {kind}" for kind in dict.fromkeys(kinds)]
        return (
            f"{Path(str(self.path)).name}: {rows} rows, {width} features from {len(kinds)} columns "
            f"({', '.join(counts)})"
            + (f"; left out {', '.join(left_out)}" if left_out else "")
            + "."
        )

    # ---- columns

    def _feature(self, column: Column) -> Feature | None:
        """What a column becomes, or None where it is left out."""
        absent = column.isna().to_numpy()
        if types.is_bool_dtype(column.dtype) and not absent.any():
            feature = Feature("boolean", column.to_numpy(bool)[:, None])
        elif types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
            if not absent.any() and len(column) > 2 and (column.diff()[1:] == 1).all():
                return None  # numbers the rows
            feature = self._number("number", column, absent)
        elif (days := self._days(column)) is not None:
            feature = self._number("date", days, absent)
        else:
            feature = self._category(column, absent)
        varies = (feature.values[:1] != feature.values).any() and not absent.all()
        return feature if varies else None

    def _number(self, kind: str, column: Column, absent: NDArray[Any]) -> Feature:
        values = column.to_numpy(np.float64, na_value=np.nan)
        if np.isinf(values).any():
            raise self._bad(column, np.isinf(values), "finite numbers")
        return Feature(kind, np.stack([values, absent] if absent.any() else [values], 1))

    def _category(self, column: Column, absent: NDArray[Any]) -> Feature:
        texts = column.astype(object).where(~absent, None).map(str, na_action="ignore")
        numbers, levels = pd.factorize(texts, sort=True)
        if len(levels) > self.max_levels:
            raise ValueError(
                f"{self._who} needs at most {self.max_levels} levels in a column of texts, got "
                f"{len(levels)} in {column.name!r} of {self.path}, {self._odd(column)}. Leave it "
                f"out by 'data.drop=[{column.name}]', or raise data.max_levels."
            )
        # factorize says -1 where a value is missing: the last row of the unit matrix.
        units = np.eye(len(levels) + bool(absent.any()), dtype=bool)
        return Feature("category", units[numbers])

    def _odd(self, column: Column) -> str:
        """The value that makes a column of numbers one of texts, or any of its values."""
        numbers = pd.to_numeric(column, errors="coerce")
        texts = column[numbers.isna() & column.notna()]
        but = "numbers but for" if 0 < 2 * len(texts) < len(column) else "such as"
        some = texts if len(texts) else column.dropna()
        return f"{but} {str(some.iloc[0])[:40]!r} in row {some.index[0]}"

    def _days(self, column: Column) -> Column | None:
        """Days since 1970 of a column of dates; None for others."""
        present = column.dropna()
        if not types.is_datetime64_any_dtype(column.dtype):
            texts = present.astype(object).map(str)
            if present.empty or not texts.str.match(r"\d{4}-\d{2}-\d{2}(?:$|[T ]\d{2}:)").all():
                return None
            column = column.astype(object)
        moments = pd.to_datetime(column, format="ISO8601", errors="coerce", utc=True)
        if len(moments.dropna()) < len(present):
            raise self._bad(column, (moments.isna() & column.notna()).to_numpy(), "dates")
        return (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)

    def _numbers(self, column: Column) -> NDArray[np.int64]:
        self._refuse_missing(column)
        if not types.is_integer_dtype(column.dtype) or column.duplicated().any():
            twice = column.duplicated().to_numpy()
            rows = twice if twice.any() else np.ones(len(column), dtype=bool)
            raise self._bad(column, rows, "distinct whole numbers")
        return column.to_numpy(np.int64, copy=True)

    def _marks(self, column: Column) -> Tensor:
        self._refuse_missing(column)
        if types.is_bool_dtype(column.dtype):
            return torch.from_numpy(column.to_numpy(bool, copy=True))
        other = (~column.isin([0, 1])).to_numpy()
        if other.any():
            raise self._bad(column, other, "true and false, or 1 and 0,")
        return torch.from_numpy(column.to_numpy(bool, copy=True))

    def _refuse_missing(self, column: Column) -> None:
        absent = column.isna().to_numpy()
        if absent.any():
            rows = ", ".join(map(str, absent.nonzero()[0][:5]))
            raise ValueError(
                f"{self._who} needs a value of {column.name!r} in every row, got none in "
                f"{absent.sum()} rows of {self.path}, such as {rows}. Fill them in or remove them."
            )

    def _bad(self, column: Column, where: NDArray[Any], what: str) -> ValueError:
        row = int(where.argmax())
        return ValueError(
            f"{self._who} needs {what} in column {column.name!r} of {self.path}, got "
            f"{str(column.iloc[row])[:40]!r} in row {row}. Correct it."
        )

    def _column(self, frame: pd.DataFrame, setting: str, name: str | None) -> Column:
        (found,) = self._named(frame, [name], setting)
        return frame[found]

    def _named(self, frame: pd.DataFrame, names: list[Any], setting: str = "drop") -> Iterator[str]:
        known = [str(name) for name in frame.columns]
        for name in names:
            if name not in known:
                listed = ", ".join(known[:20]) + ", ..." * (len(known) > 20)
                raise ValueError(
                    f"{self._who} needs {setting} to be a column of {self.path}, got "
                    f"{name or 'null'}{hint(str(name), known)} It has {listed}. "
                    f"Set data.{setting}."
                )
            yield name

    # ---- files

    def _frame(self) -> pd.DataFrame:
        path = files.own(self.path, self._who, "data.path")
        content = files.content(path, self._who, self.max_megabytes)
        read = self._parquet if content[:4] == b"PAR1" else self._csv
        frame = read(content)
        if not len(frame):
            raise ValueError(f"{self._who} needs rows, got none below the header of {path}.")
        return frame

    def _csv(self, content: bytes) -> pd.DataFrame:
        rows = self._check_csv(content)
        try:
            frame = pd.read_csv(
                io.BytesIO(content),
                sep=self.separator,
                encoding="utf-8-sig",
                na_values=self.missing,
                index_col=False,
                low_memory=False,
            )
        except (ValueError, OverflowError) as error:
            raise self._unreadable(" ".join(str(error).split())) from error
        if len(frame) != rows:
            raise self._unreadable(f"it seems to have {rows} rows, or else {len(frame)}")
        return frame

    def _check_csv(self, content: bytes) -> int:
        """The number of rows, once all of them are text and have as many fields as the header."""

        def line(offset: int) -> int:
            return content.count(b"\n", 0, offset) + 1

        if content[:2] == b"PK":
            raise self._unreadable("it is a zip file; unpack it")
        if b"\0" in content:
            number = line(content.index(0))
            raise self._unreadable(f"line {number} holds a NUL byte; save it as UTF-8 text")
        lines = csv.reader(
            io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""),
            delimiter=self.separator,
            strict=True,
        )
        header: list[str] = []
        rows = -1
        try:
            for fields in lines:
                if not fields:
                    continue
                header = header or fields
                rows += 1
                if len(fields) != len(header):
                    raise self._unreadable(
                        f"line {lines.line_num} has {len(fields)} fields, the header {len(header)}"
                    )
        except UnicodeDecodeError:
            try:
                content.decode()
            except UnicodeDecodeError as error:
                number = line(error.start)
                raise self._unreadable(f"line {number} is not UTF-8; save it as UTF-8") from error
        except csv.Error as error:
            raise self._unreadable(f"line {lines.line_num}: {error}") from error
        if not header:
            raise self._unreadable("it is empty")
        twice = pd.Series(header).duplicated()
        if twice.any():
            raise self._unreadable(f"two columns are called {header[twice.argmax()]!r}; rename one")
        if len(header) == 1:
            raise self._unreadable(
                f"it has one column alone, {header[0][:60]!r}; set data.separator=... if its "
                f"fields are not separated by {self.separator!r}"
            )
        return rows

    def _parquet(self, content: bytes) -> pd.DataFrame:
        if importlib.util.find_spec("pyarrow") is None:
            raise ValueError(
                f"{self._who} needs pyarrow to read the Parquet file {self.path}, got none. "
                "Install it by pip install pyarrow, or save the table as CSV."
            )
        parquet = importlib.import_module("pyarrow.parquet")
        try:
            opened = parquet.ParquetFile(io.BytesIO(content))
            about, schema = opened.metadata, opened.schema_arrow
            unpacked = sum(
                about.row_group(group).total_byte_size for group in range(about.num_row_groups)
            )
            # A column of one value takes no space in the file, and does in memory.
            size = max(unpacked, about.num_rows * about.num_columns * 8)
            if size <= self.max_megabytes * 1e6:
                texts = [field.name for field in schema if str(field.type) in TEXTS]
                size = max(size, self._bytes_of_texts(content, texts))
            if size <= self.max_megabytes * 1e6:
                frame = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
        except Exception as error:  # pyarrow documents no closed list
            raise self._unreadable(" ".join(str(error).split())) from error
        if size > self.max_megabytes * 1e6:
            raise files.too_large(self._who, str(self.path), self.max_megabytes)
        return frame.reset_index(drop=True).rename(columns=str)

    def _bytes_of_texts(self, content: bytes, names: list[str]) -> int:
        """What columns of texts take where every row has its own; the file may have each once."""
        parquet = importlib.import_module("pyarrow.parquet")
        compute = importlib.import_module("pyarrow.compute")
        opened = parquet.ParquetFile(io.BytesIO(content), read_dictionary=names)
        return sum(
            compute.sum(compute.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
            for column in opened.read(columns=names).columns
            for chunk in column.chunks
        )

    def _unreadable(self, reason: str) -> ValueError:
        return ValueError(f"{self._who} cannot read {self.path}: {reason}. Correct the file.")


def _filled(part: Labelled, train: Labelled) -> Labelled:
    """The part with the medians of the training part for missing numbers."""
    medians = torch.from_numpy(pd.DataFrame(train.x.numpy()).median().to_numpy(copy=True))
    # Zero where a column is missing in all of the training part.
    return replace(part, x=torch.where(part.x.isnan(), medians.nan_to_num(0.0), part.x))


def _finished(part: Labelled) -> Labelled:
    # After scaling only: dates and numbers of nine digits have no room in float32.
    return replace(part, x=part.x.to(torch.get_default_dtype()))


class Table(OwnTable, Rows):
    """Rows of two or more classes, whose names may be any texts or numbers. Args: as `OwnTable`."""

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known once the file is read
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        return self._encoded.class_names

    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        where = f"column {column.name!r} of {self.path}"
        plain = types.is_numeric_dtype(column.dtype)  # booleans too
        values = column.to_numpy() if plain else column.map(str).to_numpy(object)
        if (count := len(pd.unique(values))) > self.max_levels:
            raise ValueError(
                f"{self._who} needs at most {self.max_levels} classes, got {count} in {where}. Use "
                "data=regression_table for a real target, or raise data.max_levels."
            )
        return numbered(values, self._who, where)


class RegressionTable(OwnTable, Regression):
    """Rows with a real target, standardised by the training part. Args: as `OwnTable`."""

    def splits(self, generator: torch.Generator) -> Splits:
        parts = super().splits(generator)
        std, mean = torch.std_mean(parts.train.y, correction=0)
        std = torch.where(std > 0, std, 1)  # the target of a single row
        return Splits(*(replace(part, y=(part.y - mean) / std) for part in parts))

    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        if types.is_bool_dtype(column.dtype) or not np.isfinite(numbers).all():
            raise self._bad(column, ~np.isfinite(numbers), "finite numbers as targets")
        return torch.tensor(numbers, dtype=torch.get_default_dtype()), []

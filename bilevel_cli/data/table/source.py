"""The user's own table, CSV, Parquet or .xlsx, of classes or of real targets."""

import abc
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel_cli.data.base import (
    SHARES,
    Labelled,
    Source,
    Splits,
    shared_out,
)
from bilevel_cli.data.reading import files
from bilevel_cli.data.table import columns, described, titles
from bilevel_cli.data.table.as_numbers import Pool, filled, finished
from bilevel_cli.data.table.columns import Column
from bilevel_cli.data.table.dialect import PLAIN
from bilevel_cli.data.table.formats import as_written, frame_at
from bilevel_cli.data.table.name import Name
from bilevel_cli.data.table.proposals import Roles
from bilevel_cli.data.table.signatures import PARQUET, format_of
from bilevel_cli.data.table.workbook import NOTE


class OwnTable(Source):
    r"""Rows of a file of CSV (plain or gzipped), Parquet or .xlsx.

    Each column is, by its content, one of these:

        number      standardised by the training part; a missing one becomes the median of the
                    training part, and a feature of 0 and 1 says where
        boolean     0 or 1
        category    one-hot: a feature for each level, and one for missing values
        date        year-month-day, perhaps with a time: days since 1970, then as a number
        left out    of one value alone, or numbering the rows

    Rows are numbered from 0, the first after the header. Results call them by the column `row_id`
    if there is one. An index that pandas left in a Parquet file is no input.

    Args:
        path: Of the file.
        target: The column to predict, or a list of several where a class takes them.
        train: Number of training rows, or null.
        validation: Number of validation rows, or null; with `clean`, null for all clean rows.
        test: Number of test rows, or null. Nulls share what the others leave, as 60 : 20 : 20.
        drop: Columns to leave out.
        row_id: A column that has another value in each row, by which results name the rows; or
            null for their numbers. It may be an index of pandas.
        clean: A column of booleans, or of 0 and 1, that says which rows are known to be clean, or
            null. Validation rows are drawn from these; others of them serve for test before they
            serve for training.
        sheet: The name of the sheet of a workbook; null for the only one that is not hidden.
        separator: Between the fields of a CSV file; \t is a tab.
        encoding: Of a CSV file, such as utf-8, cp1252, utf-16.
        decimal: The decimal sign of numbers, a point or a comma.
        thousands: What separates their thousands: a point, a comma, a space (of any kind), an
            apostrophe, or "" for nothing. Null is nothing too, unless the other numbers make it
            doubtful.
        signs: Currency, percent and other signs to be removed from numbers; 12% becomes 12.
        negatives: How negative numbers are written besides -1: parentheses, (1); trailing, 1-;
            typographic, with another dash.
        dates: The order of dates other than 2024-05-31: year_first, day_first, month_first.
        missing: Texts that mean a missing value, besides the empty field.
        keep_default_na: Whether NA, NaN, None, null and so on mean a missing value too. If not,
            they do so only in columns of numbers and dates.
        text: Columns that are read as texts, whatever they look like.
        describe: Whether the statement of the run has a line for each column.
        max_levels: Largest number of levels of a category, and of classes.
        max_megabytes: Largest size of the file, unpacked, and of the table as numbers.

    Attributes:
        has_classes: Whether the target has classes, which may be any texts.
    """

    has_classes: ClassVar[bool]

    def __init__(
        self,
        path: str | None,
        target: str | list[str] | None,
        train: int | None,
        validation: int | None,
        test: int | None,
        drop: list[str],
        row_id: str | None,
        clean: str | None,
        sheet: str | None,
        separator: str,
        encoding: str,
        decimal: str,
        thousands: str | None,
        signs: list[str],
        negatives: list[str],
        dates: str | None,
        missing: list[str],
        keep_default_na: bool,
        text: list[str],
        describe: bool,
        max_levels: int,
        max_megabytes: float,
    ) -> None:
        super().__init__(train, validation, test)
        for name, number in (("max_levels", max_levels), ("max_megabytes", max_megabytes)):
            if not number >= 1 or math.isinf(number):
                raise ValueError(
                    f"{type(self).__name__} needs {name} >= 1, got {number}. Set data.{name}."
                )
        lists = {"drop": drop, "missing": missing, "signs": signs, "negatives": negatives}
        for name, texts in [*lists.items(), ("text", text)]:
            if isinstance(texts, str):
                raise ValueError(
                    f"{type(self).__name__} needs {name} to be a list, got {texts!r}. "
                    f"Set 'data.{name}=[{texts}]'."
                )
        self.targets = self.several(target)
        self.path, self.target, self.row_id, self.clean = path, self.targets[0], row_id, clean
        self.drop, self.describe = list(map(str, drop)), describe
        self.dialect = PLAIN.with_(
            separator=separator,
            encoding=encoding,
            decimal=decimal,
            thousands=thousands,
            signs=signs,
            negatives=negatives,
            dates=dates,
            missing=missing,
            keep_default_na=keep_default_na,
            text=text,
            sheet=None if sheet is None else str(sheet),
        ).checked(self.name)
        self.max_levels, self.max_megabytes = max_levels, max_megabytes

    def several(self, target: str | list[str] | None) -> Sequence[str | None]:
        """The columns to predict: one, unless a class differs."""
        if not (target is None or isinstance(target, str)):
            raise ValueError(
                f"{type(self).__name__} needs one target, got {', '.join(map(str, target))}. "
                "Set data.target, or use data=targets_table."
            )
        return [target]

    def read(self) -> tuple[Labelled, Labelled | None]:
        rows = self.pool.rows
        return finished(filled(rows, rows)), None

    def splits(self, generator: torch.Generator) -> Splits:
        rows, scaled, clean, *_ = self.pool
        if clean is None:
            parts = self.cut(rows, None, generator)
        else:
            parts = self._cut_clean(rows, clean, generator)
        parts = Splits(*(filled(part, parts.train) for part in parts))
        std, mean = torch.std_mean(parts.train.x, dim=0, correction=0)
        std, mean = torch.where(scaled & (std > 0), std, 1), torch.where(scaled, mean, 0)
        return Splits(*(finished(replace(part, x=(part.x - mean) / std)) for part in parts))

    def names_of(self, index: Tensor) -> NDArray[Any]:
        names = self.pool.names
        return super().names_of(index) if names is None else names[index.cpu().numpy()]

    @property
    def statement(self) -> str:
        return self.pool.statement

    @abc.abstractmethod
    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        """The target as labels or numbers, of shape [n], and the names of classes."""

    @property
    def roles(self) -> Roles:
        """What the columns are for, besides inputs."""
        others = (self.row_id, self.clean, *self.drop)
        return Roles(self.target, self.has_classes, others, self.row_id)

    @property
    def name(self) -> Name:
        """What messages call the table."""
        return Name(type(self).__name__, str(self.path))

    def _cut_clean(self, rows: Labelled, clean: Tensor, generator: torch.Generator) -> Splits:
        order = torch.randperm(len(clean), generator=generator)
        marked, unmarked = order[clean[order]], order[~clean[order]]
        count = len(marked) if self.validation is None else self.validation
        if not 1 <= count <= len(marked):
            raise ValueError(
                f"{type(self).__name__} needs validation <= {len(marked)}, the rows that column "
                f"{self.clean!r} calls clean, got {count}. Lower data.validation."
            )
        others = len(marked) - count
        train, test = shared_out(
            [self.train, self.test], others + len(unmarked), (SHARES[0], SHARES[2])
        )
        self._require(
            train + test,
            others + len(unmarked),
            "train + test, besides clean rows for validation,",
        )
        checked = min(test, others)  # rows known to be clean that serve for test
        learned = min(train, len(unmarked) - (test - checked))
        validation, spare, first = self.parted(marked, rows.y, [count, train - learned, checked])
        usual, second = self.parted(unmarked, rows.y, [learned, test - checked])
        parts = torch.cat([usual, spare]), validation, torch.cat([second, first])
        return Splits(*map(rows.take, parts))

    @cached_property
    def pool(self) -> Pool:
        """The file, once it is read."""
        who, file = type(self).__name__, self.name
        frame = frame_at(self.path, file, self.dialect, self.roles, self.max_megabytes)
        levels = [str(level) for level in frame.index.names if level is not None]
        frame = frame.reset_index(drop=not levels)

        def column(setting: str, title: str | None) -> Column:
            return titles.column_of(frame, setting, title, file)

        targets = [column("target", title) for title in self.targets]
        dropped = titles.known(frame, "drop", self.drop, file)
        titles.known(frame, "text", self.dialect.text, file)
        inputs = frame.drop(columns=[*self.targets, *dropped, *levels])
        names, clean = None, None
        if self.row_id is not None:
            names = columns.row_names(column("row_id", self.row_id), file)
            inputs = inputs.drop(columns=self.row_id, errors="ignore")
        if self.clean is not None:
            clean = torch.from_numpy(columns.marks(column("clean", self.clean), file))
            inputs = inputs.drop(columns=self.clean, errors="ignore")
        y, class_names, trimmed = self._predicted(targets)
        encoded = columns.encoded(
            inputs, file, self.dialect.text, self.max_levels, self.max_megabytes
        )
        if not encoded.features:
            raise ValueError(
                f"{who} needs a column to predict {self.target!r} from, got none that "
                f"varies in {self.path}. Add columns, or drop fewer."
            )
        rows = Labelled(torch.from_numpy(encoded.x), y, torch.arange(len(frame)))
        unused = [repr(level) for level in levels if level != self.row_id]
        index = [f"its index {', '.join(unused)} is no input"] if unused else []
        statement = f"{Path(file.path).name}: {len(frame)} rows, {encoded.statement}"
        statement = "; ".join([statement, *index, *described.remarks(class_names, trimmed)]) + "."
        statement = f"{statement} {frame.attrs.get(NOTE, '')}".rstrip()
        if self.describe:
            others: dict[str | None, str] = {
                **dict.fromkeys(levels, "an index"),
                **dict.fromkeys(self.drop, "dropped"),
                **{self.clean: "marks clean rows", self.row_id: "names the rows"},
                **dict.fromkeys(self.targets, "target"),
            }
            lines = described.described(frame, encoded, others)
            statement = "\n  ".join([statement, *lines]) + "\n"
        return Pool(rows, torch.tensor(encoded.scaled), clean, class_names, names, statement)

    def _predicted(self, targets: list[Column]) -> tuple[Tensor, list[str], int]:
        """The targets, the names of their classes, and how many labels had blanks around them."""
        found = [columns.trimmed(column) for column in targets]
        for column, _ in found:
            columns.refuse_missing(column, self.name, partial(self._as_written, str(column.name)))
        y = [self.as_targets(column) for column, _ in found]
        labels = torch.stack([one for one, _ in y], 1) if len(y) > 1 else y[0][0]
        return labels, y[0][1], sum(count for _, count in found)

    def _as_written(self, title: str) -> Column | None:
        path = files.own(self.path, type(self).__name__, "data.path")
        content = files.content(path, type(self).__name__, self.max_megabytes)
        if format_of(content, self.name) == PARQUET:
            return None
        return as_written(content, self.name, self.dialect, self.max_megabytes).fields[title]

"""Workbooks of spreadsheets, .xlsx and .xlsm: a sheet becomes a frame, formulas their values.

openpyxl reads the cells and pandas makes columns of them. Macros, and links to other files, are not
looked at.
"""

import datetime as dt
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from pandas.api import types

from bilevel_cli.data.reading import files
from bilevel_cli.data.table import sheets
from bilevel_cli.data.table.name import Name, twice, unreadable

ROW, CELL = 64, 8  # bytes in memory, also of those that a sheet leaves out
UNNAMED = "Unnamed: "  # and a number: a column without a name
NOTE = "note"  # of a frame's `attrs`: a sentence for the statement of a run


class Asked(NamedTuple):
    """What of a workbook is read, and how.

    Attributes:
        sheet: Its name; None for the only one.
        missing: Texts that mean a missing value.
        keep_default_na: Whether those that pandas knows mean one too.
        texts: Columns that are texts, whatever they look like.
    """

    sheet: str | None
    missing: Sequence[str]
    keep_default_na: bool
    texts: Sequence[str]


@dataclass
class _Scan:
    """What a sheet holds, besides its values.

    Attributes:
        header: The number of the row of names, from 1.
        titles: The names of the columns.
        blank: The numbers of the rows without a value.
        rows: How many rows there are below the header.
        kinds: The types of the values of each column, in openpyxl's words: "b" for booleans.
        errors: How often each word of a spreadsheet's errors is there, such as #N/A.
        first_error: The cell of the first.
    """

    header: int = 0
    titles: list[str] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)
    rows: int = 0
    kinds: list[set[str]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str = ""

    def truths(self, alone: bool) -> list[str]:
        """The columns that hold booleans, alone or among other values."""
        kinds = zip(self.titles, self.kinds, strict=True)
        return [title for title, found in kinds if "b" in found and (found == {"b"}) == alone]

    @property
    def note(self) -> str:
        if not self.errors:
            return ""
        words = ", ".join(f"{count} of {word}" for word, count in self.errors.items())
        return f"Cells with errors are missing values: {words}, the first in {self.first_error}."


def frame_in(content: bytes, name: Name, asked: Asked, max_megabytes: float) -> pd.DataFrame:
    """The sheet as a frame, whose names of columns are in its first row that is not empty.

    Rows without a value are passed over. Times of day become durations since midnight. Cells with
    errors are missing values; the frame's `attrs[NOTE]` says how many there are, or is "".

    Args:
        content: Of the file.
        name: Of the table, for messages.
        asked: What is read.
        max_megabytes: Largest size of the file, unpacked, and of the sheet in memory.

    Raises:
        ValueError: openpyxl is absent, the workbook is damaged or too large, there is no such
            sheet, a column has no name, or a formula has no value.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts, filters and the like
        book, sheet = sheets.opened(content, name, asked.sheet, max_megabytes)
        scan = _scanned(sheets.rows_of(sheet, name), name, max_megabytes)
        sheets.refuse_formulas(content, sheet, name)
        mixed = [title for title in scan.truths(alone=False) if title not in asked.texts]
        try:
            frame = pd.read_excel(
                book,
                sheet_name=sheet.title,
                engine="openpyxl",
                header=None,
                names=scan.titles,
                skiprows=[number - 1 for number in (*scan.blank, scan.header)],
                dtype={title: str for title in asked.texts if title in scan.titles},
                converters=dict.fromkeys(mixed, _text),  # True stays apart from 1
                na_values=["", *asked.missing],
                keep_default_na=asked.keep_default_na,
            )
        except Exception as error:  # openpyxl documents no closed list
            raise unreadable(name, error) from error
    if len(frame) != scan.rows or list(frame.columns) != scan.titles:
        raise unreadable(name, f"it seems to have {scan.rows} rows, or else {len(frame)}")
    for title in scan.truths(alone=True):  # which pandas has as 1 and 0 where some are missing
        if title not in asked.texts and not types.is_bool_dtype(frame[title].dtype):
            frame[title] = frame[title].map({1.0: True, 0.0: False}).astype(object)
    for title in mixed:
        frame[title] = frame[title].mask(frame[title] == "")
    frame = frame.apply(_of_one_kind)
    frame.attrs[NOTE] = scan.note
    return frame


def as_written(content: bytes, name: Name, sheet: str | None, max_megabytes: float) -> pd.DataFrame:
    """The sheet with every value as its cell has it, as texts; an empty cell is an empty one.

    Args and errors: as `frame_in`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, chosen = sheets.opened(content, name, sheet, max_megabytes)
        scan = _scanned(sheets.rows_of(chosen, name), name, max_megabytes)
        rows = [
            [_plain(cell) for cell in cells] + [""] * (len(scan.titles) - len(cells))
            for number, cells in sheets.rows_of(chosen, name)
            if cells and number > scan.header
        ]
    return pd.DataFrame(rows, columns=scan.titles, dtype=str)


def _scanned(rows: Iterator[tuple[int, list[Any]]], name: Name, max_megabytes: float) -> _Scan:
    """What a look at all cells tells, in as much memory as they will take or less."""
    scan, letters = _Scan(), 0
    empty: list[int] = []
    for number, cells in rows:
        if not cells:
            empty.append(number)
        elif not scan.header:
            scan.header, scan.titles = number, _titles(cells, name)
            scan.kinds = [set() for _ in cells]
            scan.blank, empty = empty, []
        else:
            scan.rows += 1
            scan.blank.extend(empty)
            empty.clear()
            _look_at(cells, scan, name)
        letters += sum(len(cell.value) for cell in cells if isinstance(cell.value, str))
        if number * (ROW + CELL * len(scan.titles)) + letters > max_megabytes * 1e6:
            raise files.too_large(name.who, f"the sheet of {name.path}", max_megabytes)
    if not scan.header:
        raise unreadable(name, "its sheet is empty")
    return scan


def _titles(cells: list[Any], name: Name) -> list[str]:
    """The names of the columns; of those without one, what pandas calls them in a CSV file."""
    titles = ["" if cell.value is None else str(cell.value) for cell in cells]
    titles = [title or f"{UNNAMED}{position}" for position, title in enumerate(titles)]
    if reason := twice(titles):
        raise unreadable(name, reason)
    return titles


def _look_at(cells: list[Any], scan: _Scan, name: Name) -> None:
    """Counts errors, and refuses numbers that are infinite and values of columns without a name.

    The first column may be without one: pandas writes its index so.
    """
    for position, cell in enumerate(cells):
        value = cell.value
        if value in (None, ""):
            continue
        if position >= len(scan.titles) or scan.titles[position] == f"{UNNAMED}{position or None}":
            raise unreadable(
                name,
                f"cell {cell.column_letter}{scan.header} should be the name of a column and is "
                "empty. Neither a name for several columns nor a title above the table is one",
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise unreadable(name, f"the number in cell {cell.coordinate} is too large")
        if cell.data_type == "e":
            scan.first_error = scan.first_error or cell.coordinate
            scan.errors[value] += 1
        else:
            scan.kinds[position].add(cell.data_type)


def _of_one_kind(column: pd.Series) -> pd.Series:
    """Times as durations; and values of several kinds as the texts that a CSV file would have."""
    if not types.is_object_dtype(column.dtype):
        return column
    present = column.dropna()
    if len(present) and present.map(lambda value: isinstance(value, dt.time | dt.timedelta)).all():
        return pd.to_timedelta(column.map(str, na_action="ignore"))
    if types.infer_dtype(present) in ("string", "boolean"):
        return column
    return column.map(_text, na_action="ignore")


def _text(value: Any) -> str:
    """A value as a CSV file would have it: 7 and not 7.0, and a day without a time."""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return str(value.date())
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _plain(cell: Any) -> str:
    return "" if cell.value is None else _text(cell.value)

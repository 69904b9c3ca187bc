"""The formats of a table, CSV and Parquet: a file becomes a frame, or is refused by its line."""

import csv
import io

import pandas as pd

from bilevel_cli.data.reading import files
from bilevel_cli.data.table import parquet
from bilevel_cli.data.table.name import Name, unreadable


def frame_at(
    path: str | None, who: str, separator: str, missing: list[str], max_megabytes: float
) -> pd.DataFrame:
    """The table in a CSV file (plain or gzipped) or in a Parquet file, with at least one row.

    Args:
        path: Of the file; null is refused.
        who: The class that reads it, for messages.
        separator: Between the fields of a CSV file, one character.
        missing: Texts of a CSV file that mean a missing value, besides those that pandas knows.
        max_megabytes: Largest size of the file, unpacked.

    Raises:
        ValueError: The file is absent, damaged, too large or empty. The message names the line
            where there is one.
    """
    found = files.own(path, who, "data.path")
    name, content = Name(who, str(path)), files.content(found, who, max_megabytes)
    if content[:4] == b"PAR1":
        frame = parquet.frame_in(content, name, max_megabytes)
    else:
        frame = _csv(content, name, separator, missing)
    if not len(frame):
        raise ValueError(f"{who} needs rows, got none below the header of {found}.")
    return frame


def _csv(content: bytes, name: Name, separator: str, missing: list[str]) -> pd.DataFrame:
    rows = _rows_of_csv(content, name, separator)
    try:
        frame = pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            encoding="utf-8-sig",
            na_values=missing,
            index_col=False,
            low_memory=False,
        )
    except (ValueError, OverflowError) as error:
        raise unreadable(name, " ".join(str(error).split())) from error
    if len(frame) != rows:
        raise unreadable(name, f"it seems to have {rows} rows, or else {len(frame)}")
    return frame


def _rows_of_csv(content: bytes, name: Name, separator: str) -> int:
    """The number of rows below the header. All are text, and have as many fields as the header."""

    def line(offset: int) -> int:
        return content.count(b"\n", 0, offset) + 1

    if content[:2] == b"PK":
        raise unreadable(name, "it is a zip file; unpack it")
    if b"\0" in content:
        number = line(content.index(0))
        raise unreadable(name, f"line {number} holds a NUL byte; save it as UTF-8 text")
    lines = csv.reader(
        io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""),
        delimiter=separator,
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
                raise unreadable(
                    name,
                    f"line {lines.line_num} has {len(fields)} fields, the header {len(header)}",
                )
    except UnicodeDecodeError:
        try:
            content.decode()
        except UnicodeDecodeError as error:
            number = line(error.start)
            raise unreadable(name, f"line {number} is not UTF-8; save it as UTF-8") from error
    except csv.Error as error:
        raise unreadable(name, f"line {lines.line_num}: {error}") from error
    _check_header(header, name, separator)
    return rows


def _check_header(header: list[str], name: Name, separator: str) -> None:
    if not header:
        raise unreadable(name, "it is empty")
    twice = pd.Series(header).duplicated()
    if twice.any():
        raise unreadable(name, f"two columns are called {header[twice.argmax()]!r}; rename one")
    if len(header) == 1:
        raise unreadable(
            name,
            f"it has one column alone, {header[0][:60]!r}; set data.separator=... if its "
            f"fields are not separated by {separator!r}",
        )

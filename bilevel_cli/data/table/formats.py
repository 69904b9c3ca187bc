"""The formats of a table, CSV and Parquet: a file becomes a frame, or is refused by its line."""

import csv
import importlib
import importlib.util
import io
from typing import Any, NamedTuple

import pandas as pd

from bilevel_cli.data.reading import files

TEXTS = ("string", "large_string", "binary", "large_binary")  # types of columns in a Parquet file


class Name(NamedTuple):
    """What messages call a table.

    Attributes:
        who: The class that reads it.
        path: Its file, as the user wrote it.
    """

    who: str
    path: str


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
        frame = _parquet(content, name, max_megabytes)
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
        raise _unreadable(name, " ".join(str(error).split())) from error
    if len(frame) != rows:
        raise _unreadable(name, f"it seems to have {rows} rows, or else {len(frame)}")
    return frame


def _rows_of_csv(content: bytes, name: Name, separator: str) -> int:
    """The number of rows below the header. All are text, and have as many fields as the header."""

    def line(offset: int) -> int:
        return content.count(b"\n", 0, offset) + 1

    if content[:2] == b"PK":
        raise _unreadable(name, "it is a zip file; unpack it")
    if b"\0" in content:
        number = line(content.index(0))
        raise _unreadable(name, f"line {number} holds a NUL byte; save it as UTF-8 text")
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
                raise _unreadable(
                    name,
                    f"line {lines.line_num} has {len(fields)} fields, the header {len(header)}",
                )
    except UnicodeDecodeError:
        try:
            content.decode()
        except UnicodeDecodeError as error:
            number = line(error.start)
            raise _unreadable(name, f"line {number} is not UTF-8; save it as UTF-8") from error
    except csv.Error as error:
        raise _unreadable(name, f"line {lines.line_num}: {error}") from error
    _check_header(header, name, separator)
    return rows


def _check_header(header: list[str], name: Name, separator: str) -> None:
    if not header:
        raise _unreadable(name, "it is empty")
    twice = pd.Series(header).duplicated()
    if twice.any():
        raise _unreadable(name, f"two columns are called {header[twice.argmax()]!r}; rename one")
    if len(header) == 1:
        raise _unreadable(
            name,
            f"it has one column alone, {header[0][:60]!r}; set data.separator=... if its "
            f"fields are not separated by {separator!r}",
        )


def _parquet(content: bytes, name: Name, max_megabytes: float) -> pd.DataFrame:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{name.who} needs pyarrow to read the Parquet file {name.path}, got none. "
            "Install it by pip install pyarrow, or save the table as CSV."
        )
    parquet: Any = importlib.import_module("pyarrow.parquet")
    limit = max_megabytes * 1e6
    try:
        fits = _unpacked_bytes(parquet, content, limit) <= limit
        frame = pd.read_parquet(io.BytesIO(content), engine="pyarrow") if fits else None
    except Exception as error:  # pyarrow documents no closed list
        raise _unreadable(name, " ".join(str(error).split())) from error
    if frame is None:
        raise files.too_large(name.who, name.path, max_megabytes)
    return frame.reset_index(drop=True).rename(columns=str)


def _unpacked_bytes(parquet: Any, content: bytes, limit: float) -> int:
    """What a Parquet file takes in memory; texts are counted only if the rest is within `limit`."""
    opened = parquet.ParquetFile(io.BytesIO(content))
    about, schema = opened.metadata, opened.schema_arrow
    unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    # A column of one value takes no space in the file, and does in memory.
    size: int = max(unpacked, about.num_rows * about.num_columns * 8)
    if size > limit:
        return size
    texts = [field.name for field in schema if str(field.type) in TEXTS]
    return max(size, _bytes_of_texts(parquet, content, texts))


def _bytes_of_texts(parquet: Any, content: bytes, names: list[str]) -> int:
    """What columns of texts take in memory, where every row has a text of its own.

    The file may have each text once. So the lengths are summed over rows, without unpacking.
    """
    compute: Any = importlib.import_module("pyarrow.compute")
    opened = parquet.ParquetFile(io.BytesIO(content), read_dictionary=names)
    return sum(
        compute.sum(compute.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
        for column in opened.read(columns=names).columns
        for chunk in column.chunks
    )


def _unreadable(name: Name, reason: str) -> ValueError:
    return ValueError(f"{name.who} cannot read {name.path}: {reason}. Correct the file.")

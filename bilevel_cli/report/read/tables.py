"""The tables of runs. A crash may have left parts of them."""

import functools
import io
import json
import re
import warnings as python_warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilevel_cli.report.costs import STEP

MOST_BYTES = 64_000_000  # of a table: half a million rows, as a rule
MOST_COLUMNS = 2_000
MOST_LETTERS = 100_000  # of its header
LAST_STEP = 2**53  # up to which a float has every whole number
SMALL = 200_000  # bytes of a table below which pandas takes longer to begin than to read it

Table = tuple[pd.DataFrame, str | None]
"""The whole rows of a table, with NaN for infinite numbers, and what was wrong with the others."""

_NUMBER = rb"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d{1,4})?|\.\d+(?:[eE][-+]?\d{1,4})?|inf|nan)"
_ROW = re.compile(rb"\d{1,15}(?:," + _NUMBER + rb")*")
_LETTERS = b"0123456789.,+-einfa\n"  # of a table as runs write it


def parse(content: bytes) -> Table:
    """The rows of a table that are whole, and what is wrong with the others.

    Args:
        content: What is in the file: numbers between commas; the first column is `step`.
    """
    if not content:
        return pd.DataFrame(), "is empty"
    header, _, body = content.partition(b"\n")
    columns, wrong = _columns(header)
    if wrong:
        return pd.DataFrame(), wrong
    table = _fast(body, columns)
    if table is not None:
        return table, None
    # The last row is torn even where it looks whole: 0.25 may have been 0.251.
    torn = not body.endswith(b"\n")
    rows = body.count(b"\n") + torn
    whole, count = bytearray(), 0  # and no list: a table of empty rows would be a list of millions
    for line in io.BytesIO(body):
        row = line.rstrip(b"\r\n")
        same = line.endswith(b"\n") and row.count(b",") == len(columns) - 1
        if same and _ROW.fullmatch(row):
            whole += row + b"\n"
            count += 1
    table = _fast(bytes(whole), columns)
    if table is not None:
        reason = "the last row is torn" if torn else "some rows are damaged"
        return table, f"{reason}; {count} of {rows} rows are used"
    table = _frame(_numbers(bytes(whole), columns), columns)
    table = table.drop_duplicates(STEP, keep="last").sort_values(STEP, ignore_index=True)
    return table, f"rows are out of order; {len(table)} of {rows} are used, sorted by step"


def parse_all(contents: Sequence[bytes]) -> list[Table]:
    """What `parse` makes of each of some tables.

    Small ones with the same header are read as if they were one: pandas takes half a millisecond to
    begin, and as long for 200 rows.
    """
    found: dict[int, Table] = {}
    alike: dict[tuple[str, ...], dict[int, bytes]] = {}
    for number, content in enumerate(contents):
        header, _, body = content.partition(b"\n")
        columns, wrong = _columns(header)
        if not wrong and len(body) < SMALL and _is_usual(body, len(columns)):
            alike.setdefault(columns, {})[number] = body
    for columns, bodies in alike.items():
        tables = _together(list(bodies.values()), columns) if len(bodies) > 1 else []
        some = zip(bodies, tables, strict=False)
        found |= {number: (table, None) for number, table in some if table is not None}
    return [
        found[number] if number in found else parse(content)
        for number, content in enumerate(contents)
    ]


def packed(table: Table) -> bytes:
    """A table as bytes: its columns and what is wrong, then its numbers, column by column."""
    rows, wrong = table
    head = json.dumps([list(rows), wrong]).encode()
    return head + b"\n" + np.ascontiguousarray(rows.to_numpy(np.dtype("<f8")).T).tobytes()


def unpacked(content: bytes) -> Table:
    """The table of some bytes.

    Raises:
        ValueError: They are not of a table; or a TypeError.
    """
    end = content.index(b"\n")
    columns, wrong = json.loads(content[:end])
    values = np.frombuffer(content, "<f8", offset=end + 1)
    count = len(columns)
    return _frame(values.astype(np.float64).reshape(count, -1 if count else 0), columns), wrong


@functools.lru_cache(maxsize=256)  # many runs have the same columns
def _columns(header: bytes) -> tuple[tuple[str, ...], str | None]:
    """The names of columns in the first line of a table, or what is wrong with it."""
    if len(header) > MOST_LETTERS or header.count(b",") >= MOST_COLUMNS:
        return (), f"has a header of more than {MOST_COLUMNS} columns, and is not read"
    try:
        columns = header.rstrip(b"\r").decode().split(",")
    except UnicodeDecodeError:
        columns = []
    distinct = len(set(columns)) == len(columns)
    if columns[:1] != [STEP] or not distinct or not all(c and c.isprintable() for c in columns):
        return (), f"has another header than a table of a run: {header[:60]!r}"
    return tuple(columns), None


def _is_usual(body: bytes, columns: int) -> bool:
    """Whether a table is of whole rows of numbers, so that each line is a row to pandas.

    A quotation mark or a carriage return in one table could move the rows of those behind it.
    """
    whole = body.endswith(b"\n") and not body.startswith(b"\n") and b"\n\n" not in body
    full = body.count(b",") == body.count(b"\n") * (columns - 1)
    return whole and full and not body.translate(None, _LETTERS)


def _together(bodies: list[bytes], columns: Sequence[str]) -> list[pd.DataFrame | None]:
    """The tables of some usual bodies with the same columns, as `_fast` reads each."""
    counts = [body.count(b"\n") for body in bodies]
    values = _tried(b"".join(bodies), columns)
    if values is None or values.shape[1] != sum(counts):
        return [None] * len(bodies)
    ends = np.cumsum(counts)
    parts = [values[:, end - rows : end] for end, rows in zip(ends, counts, strict=True)]
    return [_frame(part.copy(), columns) if _is_in_order(part[0]) else None for part in parts]


def _fast(body: bytes, columns: Sequence[str]) -> pd.DataFrame | None:
    """The table, if all rows are whole and in the order of their steps, as a run writes them."""
    if not body:
        return _frame(np.empty((len(columns), 0)), columns)
    rows = body.count(b"\n")
    if not body.endswith(b"\n") or body.count(b",") != rows * (len(columns) - 1):
        return None
    values = _tried(body, columns)
    if values is None or values.shape[1] != rows or not _is_in_order(values[0]):
        return None
    return _frame(values, columns)


def _is_in_order(steps: NDArray[np.float64]) -> bool:
    return bool((np.diff(steps) > 0).all() and ((steps >= 0) & (steps <= LAST_STEP)).all())


def _tried(body: bytes, columns: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        return _numbers(body, columns)
    except (ValueError, pd.errors.ParserWarning, OverflowError):
        return None


def _numbers(body: bytes, columns: Sequence[str]) -> NDArray[np.float64]:
    """The numbers in some rows, in the shape (columns, rows); NaN for those that are not finite."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        table = pd.read_csv(
            io.BytesIO(body), header=None, names=list(columns), dtype=np.float64, index_col=False
        )
    values = np.array(table.to_numpy().T, order="C")  # pandas lets nobody change its own
    values[~np.isfinite(values)] = np.nan
    return values


def _frame(values: NDArray[np.float64], columns: Sequence[str]) -> pd.DataFrame:
    """Numbers in the shape (columns, rows) as a table, which does not copy them."""
    rows = _range(values.shape[1])
    return pd.DataFrame(values.T, index=rows, columns=_index(tuple(columns)), copy=False)


@functools.lru_cache(maxsize=256)  # with the table in which pandas looks names up
def _index(columns: tuple[str, ...]) -> "pd.Index[str]":
    return pd.Index(columns)


@functools.lru_cache(maxsize=256)
def _range(rows: int) -> pd.RangeIndex:
    return pd.RangeIndex(rows)

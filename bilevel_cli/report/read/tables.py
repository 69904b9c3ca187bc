"""The tables of runs. A crash may have left parts of them."""

import io
import re
import warnings as python_warnings
from pathlib import Path

import numpy as np
import pandas as pd

from bilevel_cli.report.costs import STEP
from bilevel_cli.report.read import bounded
from bilevel_cli.report.read.bounded import Unread

MOST_BYTES = 64_000_000  # of a table: half a million rows, as a rule
MOST_COLUMNS = 2_000
MOST_LETTERS = 100_000  # of its header
LAST_STEP = 2**53  # up to which a float has every whole number

Known = dict[Path, tuple[tuple[int, int], pd.DataFrame, str | None]]
"""For each file its size and time of change, its table, and what was wrong with it."""

_NUMBER = rb"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d{1,4})?|\.\d+(?:[eE][-+]?\d{1,4})?|inf|nan)"
_ROW = re.compile(rb"\d{1,15}(?:," + _NUMBER + rb")*")


def read(path: Path, known: Known, warnings: list[str]) -> pd.DataFrame:
    """The whole rows of a table, with NaN for infinite numbers; no rows without a file.

    Args:
        path: The file.
        known: Tables that were read before. A file that has not changed since is not read again.
        warnings: A line is added where something is wrong with the file.
    """
    try:
        now = path.lstat()
        stamp = (now.st_size, now.st_mtime_ns)
        if path not in known or known[path][0] != stamp:
            found = bounded.content(path, MOST_BYTES)
            if found is None:
                return pd.DataFrame()
            known[path] = (stamp, *parse(found))
    except FileNotFoundError:
        return pd.DataFrame()
    except (OSError, Unread) as error:
        warnings.append(f"{path}: {error}.")
        return pd.DataFrame()
    _, table, wrong = known[path]
    if wrong:
        warnings.append(f"{path}: {wrong}.")
    return table


def parse(content: bytes) -> tuple[pd.DataFrame, str | None]:
    """The rows of a table that are whole, and what is wrong with the others.

    Args:
        content: What is in the file: numbers between commas; the first column is `step`.
    """
    if not content:
        return pd.DataFrame(), "is empty"
    header, _, body = content.partition(b"\n")
    if len(header) > MOST_LETTERS or header.count(b",") >= MOST_COLUMNS:
        return pd.DataFrame(), f"has a header of more than {MOST_COLUMNS} columns, and is not read"
    try:
        columns = header.rstrip(b"\r").decode().split(",")
    except UnicodeDecodeError:
        columns = []
    distinct = len(set(columns)) == len(columns)
    if columns[:1] != [STEP] or not distinct or not all(c and c.isprintable() for c in columns):
        return pd.DataFrame(), f"has another header than a table of a run: {header[:60]!r}"
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
    table = _parsed(bytes(whole), columns)
    table = table.drop_duplicates(STEP, keep="last").sort_values(STEP, ignore_index=True)
    return table, f"rows are out of order; {len(table)} of {rows} are used, sorted by step"


def _fast(body: bytes, columns: list[str]) -> pd.DataFrame | None:
    """The table, if all rows are whole and in the order of their steps, as a run writes them."""
    if not body:
        return pd.DataFrame(columns=columns, dtype=float)
    rows = body.count(b"\n")
    if not body.endswith(b"\n") or body.count(b",") != rows * (len(columns) - 1):
        return None
    try:
        table = _parsed(body, columns)
    except (ValueError, pd.errors.ParserWarning, OverflowError):
        return None
    if len(table) != rows or not bool((table[STEP].diff().iloc[1:] > 0).all()):
        return None
    return table if bool(table[STEP].between(0, LAST_STEP).all()) else None


def _parsed(body: bytes, columns: list[str]) -> pd.DataFrame:
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        table = pd.read_csv(
            io.BytesIO(body), header=None, names=columns, dtype=np.float64, index_col=False
        )
    return table.where(np.isfinite(table))

"""The tables of runs. A crash may have left parts of them."""

import io
import re
import warnings as python_warnings
from pathlib import Path

import numpy as np
import pandas as pd

from bilevel_cli.report.costs import STEP

Known = dict[Path, tuple[tuple[int, int], pd.DataFrame, str | None]]
"""For each file its size and time of change, its table, and what was wrong with it."""

_NUMBER = rb"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d{1,4})?|\.\d+(?:[eE][-+]?\d{1,4})?|inf|nan)"
_ROW = re.compile(rb"\d+(?:," + _NUMBER + rb")*")


def read(path: Path, known: Known, warnings: list[str]) -> pd.DataFrame:
    """The rows of a table that are whole, with NaN for infinite numbers; none without a file.

    Args:
        path: The file.
        known: Tables that were read before. A file that has not changed since is not read again.
        warnings: A line is added where something is wrong with the file.
    """
    try:
        now = path.stat()
        if not path.is_file():
            raise OSError("not a file")
        stamp = (now.st_size, now.st_mtime_ns)
        if path not in known or known[path][0] != stamp:
            known[path] = (stamp, *parse(path.read_bytes()))
    except FileNotFoundError:
        return pd.DataFrame()
    except OSError as error:
        warnings.append(f"{path}: cannot be read ({error.strerror or error}).")
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
    try:
        columns = header.rstrip(b"\r").decode().split(",")
    except UnicodeDecodeError:
        columns = []
    if columns[:1] != [STEP] or not all(columns) or len(set(columns)) < len(columns):
        return pd.DataFrame(), f"has another header than a table of a run: {header[:60]!r}"
    table = _fast(body, columns)
    if table is not None:
        return table, None
    lines = [line.rstrip(b"\r") for line in body.split(b"\n")]
    if not lines[-1]:
        del lines[-1]
        torn = False
    else:  # the last row is torn even where it looks whole: 0.25 may have been 0.251
        torn = True
    whole = [
        line
        for line in (lines[:-1] if torn else lines)
        if line.count(b",") == len(columns) - 1 and _ROW.fullmatch(line)
    ]
    table = _fast(b"\n".join([*whole, b""]) if whole else b"", columns)
    if table is not None:
        reason = "the last row is torn" if torn else "some rows are damaged"
        return table, f"{reason}; {len(whole)} of {len(lines)} rows are used"
    table = _parsed(b"\n".join([*whole, b""]), columns)
    table = table.drop_duplicates(STEP, keep="last").sort_values(STEP, ignore_index=True)
    return table, f"rows are out of order; {len(table)} of {len(lines)} are used, sorted by step"


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
    return table if bool(table[STEP].notna().all()) else None


def _parsed(body: bytes, columns: list[str]) -> pd.DataFrame:
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        table = pd.read_csv(
            io.BytesIO(body), header=None, names=columns, dtype=np.float64, index_col=False
        )
    return table.where(np.isfinite(table))

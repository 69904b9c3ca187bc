"""The user's file: what it says, what a run can read of it, and the file with columns added."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api import types

from bilevel_cli.data.reading import files
from bilevel_cli.data.table import columns, described
from bilevel_cli.data.table.dialect import Dialect
from bilevel_cli.data.table.formats import Written, as_written, frame_at
from bilevel_cli.data.table.name import Name, Value
from bilevel_cli.data.table.parquet import NoScalar
from bilevel_cli.data.table.proposals import Roles
from bilevel_cli.data.table.understood import is_text
from bilevel_cli.data.table.workbook import NOTE
from bilevel_cli.errors import UsageError, hint
from bilevel_cli.records.atomic import replaced

WHO = "The table"
MAX_MEGABYTES = 1000.0
MAX_LEVELS = 50  # of the target, and of a column of texts
FEWEST_ROWS = 50  # fewer say nothing of a share of some per cent
ADDED = ("label_suspect", "suggested_label", "confidence", "rank")


@dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    Attributes:
        path: The file, CSV (plain or gzipped), Parquet or .xlsx.
        target: The column of labels.
        row_id: A column by which the rows are named, or None for the numbers of the rows, from 0.
        drop: Columns that say nothing of the label.
        dialect: How the values of the table are written.
        folds: Parts of the rows that are judged by classifiers of the others.
        seed: Of the folds and the classifiers.
    """

    path: Path
    target: str
    row_id: str | None
    drop: tuple[str, ...]
    dialect: Dialect
    folds: int
    seed: int


@dataclass(frozen=True)
class OwnFile:
    """The table, once it is known to serve.

    Attributes:
        text: All columns as they stand in the file, of n rows; texts, if that is a CSV file. A
            column without a name is called `Unnamed: 0`, or by another number.
        header: The names of the columns as they stand in the file.
        left_out: The columns that do not serve as inputs, with the reason, besides those dropped.
        rare: The classes with fewer rows than folds, with their numbers of rows.
        trimmed: How many labels have blanks at their ends, which do not count.
        alike: Which classes only upper and lower case tell apart, a phrase for each group.
        encoding: Of a CSV file.
        note: What the user should know of how the file was read; or "".
    """

    text: pd.DataFrame
    header: list[str]
    left_out: dict[str, str]
    rare: dict[str, int]
    trimmed: int
    alike: list[str]
    encoding: str
    note: str


OPTIONS = {"signs": "sign", "keep_default_na": "keep-na"}  # called otherwise than settings


def option(setting: str, value: Value) -> str:
    """A setting as an option of bilevel-labels, for a shell."""
    name = OPTIONS.get(setting, setting)
    match value:
        case bool() | None:
            return f"--{name}"
        case str():
            return shlex.quote(f"--{name}={value}".replace("\t", "\\t"))
    return " ".join(shlex.quote(f"--{name}={one}") for one in value)


def read(wanted: Wanted) -> OwnFile:
    """Reads the file, and refuses it before any work where nothing could come of it.

    Raises:
        UsageError: A column is not there, the target is none of classes, or there are few rows.
    """
    name = Name(WHO, str(wanted.path), option)
    if not wanted.path.is_file():
        raise UsageError(
            f"bilevel-labels needs a file, got {wanted.path}, which is none. Correct the path."
        )
    try:
        roles = Roles(wanted.target, True, (wanted.row_id, *wanted.drop), wanted.row_id)
        frame = frame_at(name.path, name, wanted.dialect, roles, MAX_MEGABYTES)
    except ValueError as error:
        raise UsageError(str(error)) from error
    levels = [str(level) for level in frame.index.names if level is not None]
    frame = frame.reset_index(drop=not levels)
    frame.columns = frame.columns.map(str)
    chosen = [("--target", wanted.target), ("--id", wanted.row_id)]
    chosen += [("--drop", title) for title in wanted.drop]
    chosen += [("--text", title) for title in wanted.dialect.text]
    for which, title in chosen:
        if title is not None and title not in frame.columns:
            raise UsageError(
                f"{which} needs a column of {wanted.path}, got {title!r}"
                f"{hint(title, frame.columns)} It has {', '.join(frame.columns[:20])}"
                f"{', ...' * (len(frame.columns) > 20)}."
            )
    if taken := [title for title in ADDED if title in frame.columns]:
        raise UsageError(
            f"{WHO} gets a column {taken[0]!r}, and has one already. Rename or remove it."
        )
    if len(frame) < FEWEST_ROWS:
        raise UsageError(
            f"{WHO} needs at least {FEWEST_ROWS} rows, got {len(frame)} in {wanted.path}: fewer "
            "cannot tell a wrong label from a rare one."
        )
    labels, trimmed = columns.trimmed(frame[wanted.target])
    rare = _rare(labels, wanted, name)
    apart = {wanted.target, wanted.row_id, *wanted.drop}
    left_out = {title: "the index of the table" for title in levels if title not in apart}
    for title in frame.columns:
        if title in apart or title in left_out:
            continue
        try:
            columns.feature_of(frame[title], name, wanted.dialect.text, MAX_LEVELS)
        except ValueError:
            if isinstance(frame[title].iloc[0], NoScalar):
                left_out[title] = f"{frame[title].iloc[0].kind}, which --out leaves out"
                continue
            numeric = types.is_numeric_dtype(frame[title].dtype)
            reason = f"{frame[title].nunique():,} different texts"
            left_out[title] = "infinite numbers" if numeric else reason
    written, note = _as_written(wanted, name), str(frame.attrs.get(NOTE, ""))
    alike = list(described.alike(sorted(labels.map(str).unique())))
    return OwnFile(
        text=written.fields,
        header=written.header,
        left_out=left_out,
        rare=rare,
        trimmed=trimmed,
        alike=alike,
        encoding=written.encoding,
        note=note,
    )


def _as_written(wanted: Wanted, name: Name) -> Written:
    """The file with every value as it stands: 007 stays 007."""
    content = files.content(wanted.path, WHO, MAX_MEGABYTES)
    return as_written(content, name, wanted.dialect, MAX_MEGABYTES)


def _rare(target: pd.Series, wanted: Wanted, table: Name) -> dict[str, int]:
    """The classes with fewer rows than folds. Refuses what is no target of classes."""
    name = f"column {wanted.target!r} of {wanted.path}"
    missing = np.flatnonzero(target.isna())
    if len(missing):
        labels = _as_written(wanted, table).fields[wanted.target]
        way_out = columns.way_out_of_missing(
            target.isna().to_numpy(), labels.fillna("") if is_text(labels) else None, table
        )
        raise UsageError(
            f"{WHO} needs a label in every row, got none in {len(missing)} rows of {name}, such "
            f"as {', '.join(map(str, missing[:5]))}, counted from 0. {way_out}"
        )
    counts = target.map(str).value_counts()
    if len(counts) == 1:
        raise UsageError(
            f"{WHO} needs two classes or more, got {counts.index[0]!r} alone in {name}."
        )
    if len(counts) > MAX_LEVELS:
        numeric = types.is_numeric_dtype(target.dtype)
        raise UsageError(
            f"{WHO} needs a target of classes, at most {MAX_LEVELS}, got {len(counts):,} different "
            f"{'numbers, which is an amount,' if numeric else 'texts'} in {name}. "
            f"{'Cut the numbers into classes, or name' if numeric else 'Name'} another --target."
        )
    rare = counts[counts < wanted.folds]
    if len(counts) - len(rare) < 2:
        raise UsageError(
            f"{WHO} needs two classes of at least --folds={wanted.folds} rows, got "
            f"{', '.join(f'{label!r} in {count}' for label, count in counts.items())} of {name}."
        )
    return {str(label): int(count) for label, count in rare.items()}


def write(own: OwnFile, added: pd.DataFrame, dialect: Dialect, path: Path) -> None:
    """Writes the table with columns added, as CSV, with every value as it was.

    Args:
        own: The table.
        added: The columns ADDED, of n rows.
        dialect: Of the table.
        path: The file.

    Raises:
        OSError: It cannot be written.
    """
    with replaced(path) as partial:
        pd.concat([own.text, added.round({"confidence": 4})], axis=1).to_csv(
            partial,
            index=False,
            sep=dialect.separator,
            decimal=dialect.decimal,
            encoding=own.encoding,
            header=[*own.header, *ADDED],
        )

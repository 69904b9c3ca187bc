"""The user's file: what it says, what a run can read of it, and the file with columns added."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api import types

from bilevel_cli.data.reading import files
from bilevel_cli.data.table import columns
from bilevel_cli.data.table.formats import frame_at
from bilevel_cli.data.table.name import Name
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
        path: The file, CSV (plain or gzipped) or Parquet.
        target: The column of labels.
        row_id: A column by which the rows are named, or None for the numbers of the rows, from 0.
        drop: Columns that say nothing of the label.
        separator: Between the fields of a CSV file.
        folds: Parts of the rows that are judged by classifiers of the others.
        seed: Of the folds and the classifiers.
    """

    path: Path
    target: str
    row_id: str | None
    drop: tuple[str, ...]
    separator: str
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
    """

    text: pd.DataFrame
    header: list[str]
    left_out: dict[str, str]
    rare: dict[str, int]


def read(wanted: Wanted) -> OwnFile:
    """Reads the file, and refuses it before any work where nothing could come of it.

    Raises:
        UsageError: A column is not there, the target is none of classes, or there are few rows.
    """
    name = Name(WHO, str(wanted.path))
    if len(wanted.separator) != 1:
        raise UsageError(f"--separator needs one character, got {wanted.separator!r}.")
    if not wanted.path.is_file():
        raise UsageError(
            f"bilevel-labels needs a file, got {wanted.path}, which is none. Correct the path."
        )
    try:
        frame = frame_at(name.path, WHO, wanted.separator, [], MAX_MEGABYTES)
    except ValueError as error:
        raise UsageError(str(error).replace("data.separator=...", "--separator")) from error
    frame.columns = frame.columns.map(str)
    chosen = {"--target": wanted.target, "--id": wanted.row_id}
    for option, title in [*chosen.items(), *(("--drop", title) for title in wanted.drop)]:
        if title is not None and title not in frame.columns:
            raise UsageError(
                f"{option} needs a column of {wanted.path}, got {title!r}"
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
    rare = _rare(frame[wanted.target], wanted)
    apart = {wanted.target, wanted.row_id, *wanted.drop}
    left_out = {}
    for title in frame.columns:
        if title in apart:
            continue
        try:
            columns.feature_of(frame[title], name, MAX_LEVELS)
        except ValueError:
            numeric = types.is_numeric_dtype(frame[title].dtype)
            reason = f"{frame[title].nunique():,} different texts"
            left_out[title] = "infinite numbers" if numeric else reason
    text, header = _as_written(wanted, frame)
    return OwnFile(text, header, left_out, rare)


def _rare(target: pd.Series, wanted: Wanted) -> dict[str, int]:
    """The classes with fewer rows than folds. Refuses what is no target of classes."""
    name = f"column {wanted.target!r} of {wanted.path}"
    missing = np.flatnonzero(target.isna())
    if len(missing):
        raise UsageError(
            f"{WHO} needs a label in every row, got none in {len(missing)} rows of {name}, such "
            f"as {', '.join(map(str, missing[:5]))}, counted from 0. Fill them in or remove them."
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


def _as_written(wanted: Wanted, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with every value as the file has it: 007 stays 007, and an empty field empty.

    The second entry is the header.
    """
    content = files.content(wanted.path, WHO, MAX_MEGABYTES)
    if content[:4] == b"PAR1":
        return frame, list(frame.columns)
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    header = next(fields for fields in csv.reader(lines, delimiter=wanted.separator) if fields)
    text = pd.read_csv(
        io.BytesIO(content),
        sep=wanted.separator,
        encoding="utf-8-sig",
        dtype=str,
        keep_default_na=False,
        index_col=False,
    )
    return text, header


def write(own: OwnFile, added: pd.DataFrame, separator: str, path: Path) -> None:
    """Writes the table with columns added, as CSV.

    Args:
        own: The table.
        added: The columns ADDED, of n rows.
        separator: Between the fields.
        path: The file.

    Raises:
        OSError: It cannot be written.
    """
    with replaced(path) as partial:
        pd.concat([own.text, added.round({"confidence": 4})], axis=1).to_csv(
            partial, index=False, sep=separator, header=[*own.header, *ADDED]
        )

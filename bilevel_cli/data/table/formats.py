"""The formats of a table: a file becomes a frame, or is refused by its line or its cell."""

import codecs
import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from bilevel_cli.data.reading import files
from bilevel_cli.data.table import parquet, workbook
from bilevel_cli.data.table.dialect import Dialect
from bilevel_cli.data.table.layout import Layout, layout
from bilevel_cli.data.table.name import Name, unreadable
from bilevel_cli.data.table.proposals import Roles, proposed
from bilevel_cli.data.table.refusal import refusal
from bilevel_cli.data.table.signatures import CSV, PARQUET, format_of
from bilevel_cli.data.table.understood import is_text, understood


def frame_at(
    path: str | None,
    name: Name,
    dialect: Dialect,
    roles: Roles,
    max_megabytes: float,
) -> pd.DataFrame:
    """The table in a file of CSV (plain or gzipped), Parquet or .xlsx, with at least one row.

    It has the index that pandas wrote to a Parquet file, if that had a name. `workbook.NOTE` of its
    `attrs` is what the user should know.

    Columns of texts that are numbers or dates in the dialect become these.

    Args:
        path: Of the file; null is refused.
        name: Of the table, for messages.
        dialect: How values are written.
        roles: Of the columns.
        max_megabytes: Largest size of the file, unpacked.

    Raises:
        ValueError: The file is absent, damaged, too large or empty, or is written in another
            dialect. The message names the line where there is one, and the settings that read it.
    """
    dialect.checked(name)
    found = files.own(path, name.who, "data.path")
    content = files.content(found, name.who, max_megabytes)
    findings: list[str] = []
    fields: Callable[[], pd.DataFrame]
    kind = format_of(content, name)
    if kind != CSV:
        frame = _binary(kind, content, name, dialect, roles, max_megabytes)
        # What is a number there was written as one, and cannot mean another.
        fields = functools.partial(pd.DataFrame, "", frame.index, frame.columns)
        spoken, texts = dialect, None
    else:
        laid = layout(content, dialect, name)
        spoken, findings = laid.dialect, laid.findings
        frame, fields = _csv(laid, name, roles.names)
        texts = None if spoken.numbers == (".", "") else fields()
    if not len(frame):
        raise ValueError(f"{name.who} needs rows, got none below the header of {found}.")
    index, frame = frame.index, frame.reset_index(drop=True)  # messages count rows from 0
    frame = understood(frame, texts, spoken, roles.others)
    proposal = proposed(frame, fields, spoken, roles)
    if findings or proposal:
        raise refusal(name, dialect, findings, proposal)
    return frame.set_axis(index)


def _binary(
    kind: str, content: bytes, name: Name, dialect: Dialect, roles: Roles, max_megabytes: float
) -> pd.DataFrame:
    if kind == PARQUET:
        return parquet.frame_in(content, name, max_megabytes)
    texts = [*dialect.text, *([roles.names] if roles.names else [])]
    asked = workbook.Asked(dialect.sheet, dialect.missing, dialect.keep_default_na, texts)
    return workbook.frame_in(content, name, asked, max_megabytes)


class Written(NamedTuple):
    """A table as it stands in its file.

    Attributes:
        fields: All texts, those too that mean a missing value; of a Parquet file the values. A
            column without a name is called `Unnamed: 0`, or by another number.
        header: The names of the columns.
        encoding: Of a CSV file; utf-8-sig where it has a byte order mark.
    """

    fields: pd.DataFrame
    header: list[str]
    encoding: str


def as_written(content: bytes, name: Name, dialect: Dialect, max_megabytes: float) -> Written:
    """The bytes of a file that `frame_at` has read, as they stand in the file.

    Columns of lists and the like are not there. Args: as `frame_at`.
    """
    kind = format_of(content, name)
    if kind != CSV:
        if kind == PARQUET:
            fields = parquet.as_written(content, name, max_megabytes)
        else:
            fields = workbook.as_written(content, name, dialect.sheet, max_megabytes)
        return Written(fields, list(fields.columns), dialect.encoding)
    laid = layout(content, dialect, name)
    marked = content.startswith(codecs.BOM_UTF8) and laid.plain
    encoding = "utf-8-sig" if marked else dialect.encoding
    return Written(_fields(laid, dtype=str, na_filter=False), laid.header, encoding)


def _csv(
    laid: Layout, name: Name, names: str | None
) -> tuple[pd.DataFrame, Callable[[], pd.DataFrame]]:
    """What pandas reads by itself, and what gives the same fields as texts.

    The column `names` stays as it is, with 007.
    """
    dialect = laid.dialect
    named = {"na_values": ["", *dialect.missing], "keep_default_na": dialect.keep_default_na}
    try:
        texts = {title: str for title in (*dialect.text, names) if title in laid.header}
        frame = _fields(laid, dtype=texts, low_memory=False, **named)
    except (ValueError, OverflowError) as error:
        raise unreadable(name, error) from error
    if len(frame) != laid.rows:
        raise unreadable(name, f"it seems to have {laid.rows} rows, or else {len(frame)}")
    if dialect.decimal == dialect.separator and not any(
        column.str.contains(",", regex=False).any()
        for _, column in frame.items()
        if is_text(column)
    ):  # a field with a separator in it is between quotation marks
        raise ValueError(
            f"{name.who} needs a decimal sign other than the separator, got ',' for both, and no "
            f"field of {name.path} has one. Set another {name.spell('separator', ';')}."
        )
    return frame, functools.cache(functools.partial(_fields, laid, dtype=str, **named))


def _fields(laid: Layout, **how: object) -> pd.DataFrame:
    return pd.read_csv(  # type: ignore[call-overload]  # by keyword
        io.BytesIO(laid.content),
        sep=laid.dialect.separator,
        encoding="utf-8-sig",
        index_col=False,
        **how,
    )

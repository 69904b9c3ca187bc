"""Parquet: the bytes of a file become a frame of numbers, texts, booleans, dates and durations."""

import importlib
import io
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bilevel_cli.data.reading import files
from bilevel_cli.data.table.name import Name, require, twice, unreadable

TEXTS = ("string", "large_string", "string_view")  # types of columns
UUID = "extension<arrow.uuid>"
UUID_BYTES = 200  # of Python's object and of its text


@dataclass(frozen=True)
class NoScalar:
    """Stands in the place of each value of a column of lists or the like.

    So such a column costs nothing where it is dropped, and is refused by name where it is used.

    Attributes:
        kind: What the values are, in pyarrow's words.
    """

    kind: str


def frame_in(content: bytes, name: Name, max_megabytes: float) -> pd.DataFrame:
    """The table in the bytes of a Parquet file.

    Decimals become numbers, times of day become durations since midnight, UUIDs become texts, and
    what pandas had as categories become categories. Lists, maps, structs and bytes are `NoScalar`.
    The frame has the index of the frame that pandas wrote, if that index had a name.

    Args:
        content: Of the file.
        name: Of the table, for messages.
        max_megabytes: Largest size of the table in memory.

    Raises:
        ValueError: pyarrow is absent, or the table is damaged or too large.
    """
    opened = _opened(content, name, max_megabytes)
    try:
        return _indexed(_scalars(opened), opened)
    except Exception as error:  # pyarrow documents no closed list
        raise unreadable(name, error) from error


def as_written(content: bytes, name: Name, max_megabytes: float) -> pd.DataFrame:
    """The table with every value as the file has it: decimals exact, and whole numbers with gaps.

    An index that has a name is among the columns, the first. Columns of lists and the like are not
    there. Args and errors: as `frame_in`.
    """
    opened = _opened(content, name, max_megabytes)
    try:
        table = opened.read(columns=_titles(opened))
        for position, title in enumerate(table.column_names):
            if str(table.column(position).type) == UUID:
                table = table.set_column(position, title, _plain(table.column(position)))
        frame = table.to_pandas(ignore_metadata=True, types_mapper=pd.ArrowDtype)
        frame = _indexed(frame, opened)
        return frame.reset_index(drop=frame.index.names == [None])
    except Exception as error:
        raise unreadable(name, error) from error


def _opened(content: bytes, name: Name, max_megabytes: float) -> Any:
    """The file, once it is known to fit."""
    require("pyarrow", "Parquet file", name)
    module: Any = importlib.import_module("pyarrow.parquet")
    limit = max_megabytes * 1e6
    try:
        opened = module.ParquetFile(io.BytesIO(content))
        fits = _unpacked_bytes(module, content, limit) <= limit
        alike = twice(opened.schema_arrow.names)
    except Exception as error:
        raise unreadable(name, error) from error
    if not fits:
        raise files.too_large(name.who, name.path, max_megabytes)
    if alike:
        raise unreadable(name, alike)
    return opened


def _scalars(opened: Any) -> pd.DataFrame:
    """The columns, in their order, with the numbers of the rows as index."""
    titles = _titles(opened)
    about = opened.schema_arrow.pandas_metadata or {}
    categories = {
        entry.get("field_name")
        for entry in about.get("columns", [])
        if entry.get("pandas_type") == "categorical"
    }
    table = opened.read(columns=titles)
    for position, title in enumerate(table.column_names):
        column = _plain(table.column(position))
        if title in categories:  # of numbers, which the file has as numbers
            column = column.dictionary_encode()
        table = table.set_column(position, title, column)
    frame = table.to_pandas(date_as_object=False, ignore_metadata=True)
    found = {
        field.name: frame[field.name] if field.name in titles else NoScalar(str(field.type))
        for field in opened.schema_arrow
    }
    return pd.DataFrame(found, index=pd.RangeIndex(opened.metadata.num_rows))


def _titles(opened: Any) -> list[str]:
    """The columns whose values are no lists, maps, structs or bytes."""
    arrow: Any = importlib.import_module("pyarrow")

    def scalar(kind: Any) -> bool:
        if isinstance(kind, arrow.BaseExtensionType) and str(kind) != UUID:
            # A text of another name, such as JSON, stands for something else than a text.
            return str(kind.storage_type) not in TEXTS and scalar(kind.storage_type)
        return not arrow.types.is_nested(kind) and "binary" not in str(kind)

    return [field.name for field in opened.schema_arrow if scalar(field.type)]


def _plain(column: Any) -> Any:
    """A column of scalars in a type that pandas knows."""
    arrow: Any = importlib.import_module("pyarrow")
    kind = column.type
    if str(kind) == UUID:
        return arrow.chunked_array(
            [[value and str(value) for value in chunk.to_pylist()] for chunk in column.chunks],
            arrow.string(),
        )
    if isinstance(kind, arrow.BaseExtensionType):
        return _plain(column.cast(kind.storage_type))
    if arrow.types.is_time(kind):
        whole = arrow.int32() if arrow.types.is_time32(kind) else arrow.int64()
        return column.cast(whole).cast(arrow.int64()).cast(arrow.duration(kind.unit))
    if not arrow.types.is_decimal(kind):
        return column
    if kind.scale == 0:  # such as a number of 20 digits that names a row
        for whole in (arrow.int64(), arrow.uint64()):
            try:
                return column.cast(whole)
            except arrow.ArrowInvalid:
                continue
    return column.cast(arrow.float64())


def _indexed(frame: pd.DataFrame, opened: Any) -> pd.DataFrame:
    """The frame with the named index that pandas had; an index without a name is dropped."""
    named: dict[str, Any] = {}
    for entry in (opened.schema_arrow.pandas_metadata or {}).get("index_columns", []):
        if isinstance(entry, dict):  # a range, which has no column
            if entry["name"] is not None:
                numbers = range(entry["start"], entry["stop"], entry["step"])
                named[str(entry["name"])] = pd.RangeIndex.from_range(numbers)
        elif entry in frame.columns:  # other programs than pandas may have taken it away
            column = frame.pop(entry)
            if not entry.startswith("__index_level_"):
                named[entry] = pd.Index(column)
    return frame.set_index(list(named.values())).rename_axis(list(named)) if named else frame


def _unpacked_bytes(parquet: Any, content: bytes, limit: float) -> int:
    """What a Parquet file takes in memory; texts are counted only if the rest is within `limit`."""
    opened = parquet.ParquetFile(io.BytesIO(content))
    about, schema = opened.metadata, opened.schema_arrow
    unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    uuids = sum(str(field.type) == UUID for field in schema)
    # A column of one value takes no space in the file, and does in memory.
    size: int = max(unpacked, about.num_rows * (about.num_columns * 8 + uuids * UUID_BYTES))
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

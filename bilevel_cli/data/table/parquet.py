"""Parquet: the bytes of a file become a frame."""

import importlib
import importlib.util
import io
from typing import Any

import pandas as pd

from bilevel_cli.data.reading import files
from bilevel_cli.data.table.name import Name, unreadable

TEXTS = ("string", "large_string", "binary", "large_binary")  # types of columns


def frame_in(content: bytes, name: Name, max_megabytes: float) -> pd.DataFrame:
    """The table in the bytes of a Parquet file.

    Raises:
        ValueError: pyarrow is absent, or the table is damaged or too large.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{name.who} needs pyarrow to read the Parquet file {name.path}, got none. "
            "Install it by pip install pyarrow, or save the table as CSV."
        )
    module: Any = importlib.import_module("pyarrow.parquet")
    limit = max_megabytes * 1e6
    try:
        fits = _unpacked_bytes(module, content, limit) <= limit
        frame = pd.read_parquet(io.BytesIO(content), engine="pyarrow") if fits else None
    except Exception as error:  # pyarrow documents no closed list
        raise unreadable(name, " ".join(str(error).split())) from error
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

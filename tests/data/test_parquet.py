"""Parquet files: each type of a column is read as its plain twin in CSV, or refused by name."""

import datetime as dt
import decimal
import importlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_files import bounded, everything, message, own
from torch import Tensor

from bilevel_cli.data.table import RegressionTable

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = importlib.import_module("pyarrow.parquet")

COUNT = 24
CHURN = np.array(["no", "yes"])[np.arange(COUNT) % 2]
AMOUNTS = [(number - 8) ** 2 for number in range(COUNT)]
GAPS = [None if number % 5 == 3 else amount for number, amount in enumerate(AMOUNTS)]


def written(folder: Path, columns: dict[str, Any], **settings: Any) -> Path:
    """A Parquet file as any program but pandas writes it."""
    path = folder / "my.parquet"
    parquet.write_table(arrow.table(columns | {"churn": CHURN}), path, **settings)
    return path


def twin(folder: Path, column: list[Any]) -> Tensor:
    """What a CSV file with these values is read as."""
    path = folder / "twin.csv"
    pd.DataFrame({"x": pd.Series(column, dtype=object), "churn": CHURN}).to_csv(path, index=False)
    return everything(own(path))


def known(change: Any) -> list[Any]:
    """GAPS, each value changed."""
    return [None if amount is None else change(amount) for amount in GAPS]


DAY = dt.date(2020, 2, 27)
ZONE = "Europe/Berlin"
CATEGORY = ["low", None, "mid", "high"] * (COUNT // 4)
TRUTH = [True, None, False, True] * (COUNT // 4)


def at(amount: int) -> dt.datetime:
    return dt.datetime(2020, 2, 27, tzinfo=dt.UTC) + dt.timedelta(hours=amount)


TYPES = {
    "integers": (arrow.array(GAPS, arrow.int16()), GAPS),
    "halves": (arrow.array(known(np.float16), arrow.float16()), GAPS),
    "past 2^63": (
        arrow.array(known(lambda amount: 2**64 - 1 - 2**58 * amount // 256), arrow.uint64()),
        known(lambda amount: float(2**64 - 1 - 2**58 * amount // 256)),
    ),
    "decimals": (
        arrow.array(known(lambda amount: decimal.Decimal(amount) / 100), arrow.decimal128(9, 2)),
        known(lambda amount: amount / 100),
    ),
    "whole decimals": (arrow.array(known(decimal.Decimal), arrow.decimal128(20, 0)), GAPS),
    "wide decimals": (arrow.array(known(decimal.Decimal), arrow.decimal256(60, 3)), GAPS),
    # 86,400 seconds are one day.
    "durations": (
        arrow.array(known(lambda amount: dt.timedelta(seconds=43200 * amount))),
        known(lambda amount: amount / 2),
    ),
    "durations in ns": (
        arrow.array(known(lambda amount: 10**9 * 43200 * amount), arrow.duration("ns")),
        known(lambda amount: amount / 2),
    ),
    "times": (
        arrow.array(known(lambda amount: dt.time(amount // 15, 30)), arrow.time64("us")),
        known(lambda amount: (amount // 15 + 0.5) / 24),
    ),
    "times in seconds": (
        arrow.array(known(lambda amount: 60 * amount), arrow.time32("s")),
        known(lambda amount: amount / 24 / 60),
    ),
    "dates": (
        arrow.array(known(lambda amount: DAY + dt.timedelta(days=amount))),
        known(lambda amount: DAY + dt.timedelta(days=amount)),
    ),
    "dates in ms": (
        arrow.array(known(lambda amount: DAY + dt.timedelta(days=amount)), arrow.date64()),
        known(lambda amount: DAY + dt.timedelta(days=amount)),
    ),
    "moments": (
        arrow.array(known(lambda amount: at(amount).replace(tzinfo=None)), arrow.timestamp("ns")),
        known(lambda amount: at(amount).replace(tzinfo=None)),
    ),
    "moments in a zone": (arrow.array(known(at), arrow.timestamp("us", ZONE)), known(at)),
    "booleans with gaps": (arrow.array(TRUTH), TRUTH),
    "categories": (arrow.array(CATEGORY).dictionary_encode(), CATEGORY),
    "ordered categories": (
        arrow.DictionaryArray.from_pandas(
            pd.Categorical(CATEGORY, ["low", "mid", "high"], ordered=True)
        ),
        CATEGORY,
    ),
    "texts of polars": (arrow.array(CATEGORY, arrow.string_view()), CATEGORY),
    "large texts": (arrow.array(CATEGORY, arrow.large_string()), CATEGORY),
    "bool8": (arrow.array([1, 0] * 12, arrow.int8()).cast(arrow.bool8()), [1, 0] * 12),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_column_of_each_type_is_read_as_its_twin_in_csv(kind: str, tmp_path: Path) -> None:
    column, values = TYPES[kind]
    try:
        path = written(tmp_path, {"x": column})
    except arrow.ArrowNotImplementedError:
        pytest.skip("this pyarrow does not write the type")
    found = everything(own(path))
    # Of 2^64 steps of 2^-53 are a relative 1e-16, and the scaled numbers are of order 1.
    torch.testing.assert_close(found, twin(tmp_path, values), atol=1e-9, rtol=0)


def test_what_pandas_has_as_categories_is_no_number(tmp_path: Path) -> None:
    codes = [3, 7, 9] * (COUNT // 3)
    frame = pd.DataFrame({"x": pd.Categorical(codes), "churn": CHURN})
    frame.to_parquet(tmp_path / "my.parquet")
    expected = twin(tmp_path, [f"level {code}" for code in codes])
    assert torch.equal(everything(own(tmp_path / "my.parquet")), expected)


def test_a_duration_says_so_and_is_a_target_in_days(tmp_path: Path) -> None:
    hours = arrow.array([dt.timedelta(hours=12 * amount) for amount in AMOUNTS])
    path = written(tmp_path, {"x": arrow.array(AMOUNTS), "stay": hours})
    assert "1 of kind duration" in own(path).statement
    assert "stay: duration in days, 1 feature, 0 to 112.5" in own(path, describe=True).statement
    pool, _ = own(path, RegressionTable, target="stay").read()
    assert pool.y.tolist() == [amount / 2 for amount in AMOUNTS]


def test_the_year_9999_is_a_date(tmp_path: Path) -> None:
    ends = [dt.date(9999, 12, 31) if number % 2 else DAY for number in range(COUNT)]
    pool, _ = own(written(tmp_path, {"x": arrow.array(ends)})).read()
    # 2,932,896 days from 1970: 8,030 years of 365.2425 days, less one.
    assert sorted(set(pool.x[:, 0].tolist())) == [(DAY - dt.date(1970, 1, 1)).days, 2932896]


NO_SCALARS = {
    "list<element: int64>": arrow.array([[1, 2]] * COUNT),
    "list<element: string>": arrow.array([["a"], None] * (COUNT // 2)),
    "struct<a: int64>": arrow.array([{"a": 1}] * COUNT),
    "map<string, int64": arrow.array([[("a", 1)]] * COUNT, arrow.map_(arrow.string(), "int64")),
    "binary": arrow.array([b"\xff"] * COUNT),
    "fixed_size_binary[2]": arrow.array([b"ab"] * COUNT, arrow.binary(2)),
    "extension<arrow.json>": arrow.array(["{}"] * COUNT, arrow.json_()),
}


@pytest.mark.parametrize("kind", NO_SCALARS)
def test_lists_and_the_like_are_refused_by_name_and_can_be_dropped(
    kind: str, tmp_path: Path
) -> None:
    path = written(tmp_path, {"x": arrow.array(AMOUNTS), "tags": NO_SCALARS[kind]})
    text = message(own(path).read)
    assert f"in column 'tags' of {path}, got {kind}" in text
    assert text.endswith('Leave it out by "data.drop=[tags]"')
    assert torch.equal(everything(own(path, drop=["tags"])), twin(tmp_path, AMOUNTS))
    for setting in ("target", "row_id", "clean"):
        chosen: dict[str, Any] = {setting: "tags"}
        assert f"in column 'tags' of {path}, got {kind}" in message(own(path, **chosen).read)


def test_a_column_without_any_value_is_left_out_as_in_csv(tmp_path: Path) -> None:
    path = written(tmp_path, {"x": arrow.array(AMOUNTS), "none": arrow.nulls(COUNT)})
    assert own(path).statement.endswith("; left out 'none'.")
    assert torch.equal(everything(own(path)), twin(tmp_path, AMOUNTS))


# ---- the names of rows

NAMES = [f"{number:03d}" for number in range(COUNT)]


@pytest.mark.parametrize(
    "values",
    [
        NAMES,
        [2**64 - 1 - number for number in range(COUNT)],
        [-(3 * number) for number in range(COUNT)],
        [str(uuid.UUID(int=number)) for number in range(COUNT)],
    ],
    ids=["007", "up to 2^64", "negative", "UUIDs"],
)
@pytest.mark.parametrize("place", ["column", "index", "level"])
def test_rows_are_named_by_a_column_or_an_index(
    values: list[Any], place: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"x": AMOUNTS, "case": values, "shop": "here", "churn": CHURN})
    if place != "column":
        frame = frame.set_index("case" if place == "index" else ["shop", "case"])
    frame.to_parquet(tmp_path / "my.parquet")
    data = own(tmp_path / "my.parquet", row_id="case")
    pool, _ = data.read()
    assert data.names_of(pool.index).tolist() == [str(value) for value in values]
    assert torch.equal(everything(data), twin(tmp_path, AMOUNTS))
    if place != "column":
        plain = own(tmp_path / "my.parquet")
        assert torch.equal(everything(plain), twin(tmp_path, AMOUNTS))
        index = "'case'" if place == "index" else "'shop', 'case'"
        assert plain.statement.endswith(f"; its index {index} is no input.")
        assert plain.names_of(pool.index).tolist() == list(range(COUNT))


def test_rows_are_named_by_numbers_of_other_types(tmp_path: Path) -> None:
    whole = [decimal.Decimal(2**64 - 1 - number) for number in range(COUNT)]
    columns = {
        "decimal": (arrow.array(whole, arrow.decimal128(20, 0)), [str(case) for case in whole]),
        "float": (arrow.array([float(n) for n in range(COUNT)]), [str(n) for n in range(COUNT)]),
        "uuid": (
            arrow.array([uuid.UUID(int=n).bytes for n in range(COUNT)], arrow.uuid()),
            [str(uuid.UUID(int=n)) for n in range(COUNT)],
        ),
    }
    for values, expected in columns.values():
        data = own(written(tmp_path, {"x": arrow.array(AMOUNTS), "case": values}), row_id="case")
        pool, _ = data.read()
        assert data.names_of(pool.index).tolist() == expected


def test_an_index_of_consecutive_numbers_can_have_a_name(tmp_path: Path) -> None:
    index = pd.RangeIndex(100, 100 + COUNT, name="case")
    pd.DataFrame({"x": AMOUNTS, "churn": CHURN}, index).to_parquet(tmp_path / "my.parquet")
    data = own(tmp_path / "my.parquet", row_id="case")
    pool, _ = data.read()
    assert data.names_of(pool.index).tolist() == [str(number) for number in index]


def test_names_that_are_missing_or_there_twice_are_refused_by_row(tmp_path: Path) -> None:
    for names, reason in (
        ([*NAMES[:-1], NAMES[3]], f"got '003' in row {COUNT - 1}"),
        ([*NAMES[:5], None, *NAMES[6:]], "got none in 1 rows of"),
    ):
        path = written(tmp_path, {"x": arrow.array(AMOUNTS), "case": arrow.array(names)})
        assert reason in message(own(path, row_id="case").read)


# ---- the file


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = arrow.table([AMOUNTS, AMOUNTS, CHURN], names=["x", "x", "churn"])
    parquet.write_table(table, tmp_path / "my.parquet")
    assert "two columns are called 'x'" in message(own(tmp_path / "my.parquet").read)


def test_names_of_columns_may_have_dots_and_be_numbers(tmp_path: Path) -> None:
    tags = arrow.array([{"b": 1}] * COUNT)
    path = written(tmp_path, {"a": tags, "a.b": arrow.array(AMOUNTS), "1": arrow.array(AMOUNTS)})
    data = own(path, drop=["a", "1"])
    assert torch.equal(everything(data), twin(tmp_path, AMOUNTS))


def test_a_list_in_every_row_costs_no_memory_where_it_is_dropped(tmp_path: Path) -> None:
    count = 20_000  # as lists of Python they would take 2 MB or more
    table = arrow.table(
        {
            "tags": arrow.array([[]] * count, arrow.list_(arrow.int64())),
            "x": np.arange(count) ** 2 % 7,
            "churn": np.arange(count) % 2,
        }
    )
    parquet.write_table(table, tmp_path / "my.parquet")
    bounded(own(tmp_path / "my.parquet", drop=["tags"]).read, megabytes=8)()

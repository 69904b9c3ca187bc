"""Tables and arrays of one's own, and a stand-in for every data option that reads files."""

import gzip
import importlib.util
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import standins
import torch
from configs import composed, options
from data_files import CONF, Mine, bounded, message, seeded
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from bilevel_cli.data.arrays import Arrays
from bilevel_cli.data.base import SHARES, Classes, Source, shared_out
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.reading import files
from bilevel_cli.data.reading.npz import read_npz
from bilevel_cli.data.rings import Rings
from bilevel_cli.data.table import OwnTable, RegressionTable, Table
from bilevel_cli.runs import entry

PARTS: dict[str, Any] = {"train": None, "validation": None, "test": None}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "cache")


@pytest.mark.parametrize("option", options("data"))
def test_every_option_needs_no_file_or_has_a_stand_in_that_it_reads(
    option: str, tmp_path: Path
) -> None:
    write = getattr(standins, option, None)
    data = instantiate(composed(f"data={option}", *(write(tmp_path) if write else [])).data)
    assert isinstance(data, Source | Classes)
    if isinstance(data, Source):
        parts, again = (data.splits(seeded(0)) for _ in range(2))
        for part, same in zip(parts, again, strict=True):
            assert len(part.x) == len(part.y) == len(part.index) > 0
            assert part.x.dtype == torch.get_default_dtype()
            assert torch.equal(part.x, same.x)
    if isinstance(data, Classes):
        # Enough for an episode of five ways, a shot and a query.
        assert all(part.shape[0] >= 5 and part.shape[1] >= 2 for part in data.classes())
        assert data.split_statement


def test_rings_have_the_radii_of_their_classes() -> None:
    parts = Rings(3, 400, 0.1, 600, 300, 300).splits(seeded(0))
    radius = torch.cat([part.x for part in parts]).norm(dim=1)
    label = torch.cat([part.y for part in parts])
    for number in range(3):
        ring = radius[label == number]
        assert len(ring) == 400
        # Within four standard errors of the mean and of the standard deviation.
        assert ring.mean() == pytest.approx(number + 1, abs=4 * 0.1 / 20)
        assert ring.std() == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(2 * 400))
    for settings in ({"classes": 1}, {"points": 0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match=f"Rings needs .*{next(iter(settings))}"):
            Rings(**{"classes": 3, "points": 9, "noise": 0.1, **PARTS, **settings})


# ---- sizes of parts


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([None, None, None], [60, 20, 20]),
        ([None, 10, None], [68, 10, 22]),  # 90 as 60 : 20, that is 67.5 and 22.5, rounded to even
        ([30, None, None], [30, 35, 35]),
        ([50, 30, 20], [50, 30, 20]),
        ([None, None], [75, 25]),  # beside an official test set
        ([98, None, None], [98, 1, 1]),
    ],
    ids=str,
)
def test_nulls_share_what_the_other_parts_leave_as_60_20_20(
    sizes: list[int | None], expected: list[int]
) -> None:
    assert shared_out(sizes, 100, SHARES) == expected


def test_a_null_that_is_left_nothing_is_refused() -> None:
    data = Digits(1000, 797, None)
    assert "train + validation + test <= 1797" in message(lambda: data.splits(seeded(0)))
    assert [len(part.y) for part in Digits(None, None, None).splits(seeded(0))] == [1078, 360, 359]


# ---- tables


def rows(count: int = 20) -> pd.DataFrame:
    numbers = np.arange(count)
    return pd.DataFrame(
        {
            "age": (numbers - 8) ** 2,
            "colour": np.array(["red", "green", "blue"])[numbers % 3],
            "churn": np.array(["no", "yes"])[numbers % 2],
        }
    )


def own(path: Path | None, cls: type[OwnTable] = Table, **settings: Any) -> Any:
    config = OmegaConf.load(CONF / "table.yaml")
    chosen = {"path": path and str(path), "target": "churn", "max_megabytes": 1.0} | settings
    given = {key: value for key, value in {**config, **chosen}.items() if key != "_target_"}
    return cls(**given)


def written(folder: Path, content: "str | bytes | pd.DataFrame", name: str = "my.csv") -> Path:
    path = folder / name
    if isinstance(content, pd.DataFrame):
        content = content.to_csv(index=False)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def everything(data: Source) -> Tensor:
    """All rows of all parts, in the order of their numbers."""
    parts = data.splits(seeded(0))
    order = torch.cat([part.index for part in parts]).argsort()
    return torch.cat([part.x for part in parts])[order]


def test_a_table_becomes_what_scikit_learn_makes_of_its_training_part(tmp_path: Path) -> None:
    frame = standins.frame()
    data = own(written(tmp_path, frame.drop(columns="price")))
    parts = data.splits(seeded(0))
    assert [len(part.y) for part in parts] == [36, 12, 12]
    numbers = pd.DataFrame({"age": frame.age})
    numbers["since"] = (pd.to_datetime(frame.since) - pd.Timestamp(0)) / pd.Timedelta(days=1)
    impute = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    impute.fit(numbers.loc[parts.train.index.tolist()])
    levels = OneHotEncoder(sparse_output=False).fit(frame[["colour"]])
    for part in parts:
        own_rows = frame.loc[part.index.tolist()]
        scaled = impute.transform(numbers.loc[part.index.tolist()])
        expected = [
            *(scaled[:, 0], own_rows.age.isna()),
            *levels.transform(own_rows[["colour"]]).T,
            *(own_rows.member, scaled[:, 1]),
        ]
        # Days since 1970 are 18,000 with a spread of 17: a thousand roundings.
        expected_x = torch.from_numpy(np.stack(expected, 1).astype(float))
        torch.testing.assert_close(part.x, expected_x, atol=1e-12, rtol=0)
        assert [data.class_names[label] for label in part.y] == own_rows.churn.tolist()
    assert data.num_classes == 2
    assert data.statement == (
        "my.csv: 60 rows, 7 features from 4 columns (1 of kind number, 1 of kind category, "
        "1 of kind boolean, 1 of kind date)."
    )


def test_a_real_target_is_standardised_by_the_training_part(tmp_path: Path) -> None:
    frame = standins.frame()
    data = own(written(tmp_path, frame), RegressionTable, target="price")
    parts = data.splits(seeded(0))
    scaler = StandardScaler().fit(frame[["price"]].loc[parts.train.index.tolist()])
    for part in parts:
        expected = scaler.transform(frame[["price"]].loc[part.index.tolist()])[:, 0]
        torch.testing.assert_close(part.y, torch.from_numpy(expected), atol=1e-12, rtol=0)
    pool, _ = data.read()
    torch.testing.assert_close(pool.y, torch.from_numpy(frame.price.to_numpy(copy=True)))
    assert pool.x.isfinite().all()


@pytest.mark.parametrize(
    "pack",
    [
        str.encode,
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: f"\n{text}\n\n".encode(),
        lambda text: gzip.compress(text.encode()),
    ],
    ids=["plain", "windows", "old mac", "byte order mark", "blank lines", "gzip"],
)
def test_a_csv_file_is_read_as_programs_write_it(
    tmp_path: Path, pack: Callable[[str], bytes]
) -> None:
    path = written(tmp_path, pack(rows().to_csv(index=False)), "other.csv")
    expected = everything(own(written(tmp_path, rows())))
    assert torch.equal(everything(own(path)), expected)


def test_labels_may_be_texts_numbers_or_booleans(tmp_path: Path) -> None:
    for values, names in (
        (["b", "a"], ["a", "b"]),
        ([10, 9], ["9", "10"]),  # in the order of numbers
        ([True, False], ["False", "True"]),
    ):
        data = own(written(tmp_path, rows().assign(churn=values * 10)))
        assert data.class_names == names
        pool, _ = data.read()
        assert [names[label] for label in pool.y] == [str(value) for value in values * 10]


def test_categories_have_a_level_for_missing_values(tmp_path: Path) -> None:
    frame = rows()
    frame.loc[[3, 5], "colour"] = None
    x = everything(own(written(tmp_path, frame)))
    assert x.shape == (20, 5)  # age; blue, green, red and none
    assert x[:, 4].nonzero()[:, 0].tolist() == [3, 5]
    assert torch.equal(x[:, 1:].sum(1), torch.ones(20))


def test_texts_may_be_declared_to_mean_missing(tmp_path: Path) -> None:
    path = written(tmp_path, rows().assign(age=["?", *map(str, range(0, 38, 2))]))
    assert "numbers but for '?' in row 0" in message(own(path, max_levels=5).read)
    x = everything(own(path, missing=["?"], max_levels=5))
    assert x[:, 1].nonzero()[:, 0].tolist() == [0]


def test_columns_that_tell_nothing_or_number_the_rows_are_left_out(tmp_path: Path) -> None:
    numbers = np.arange(20)
    frame = rows().assign(id=7 + numbers, same="x", empty=None)
    data = own(written(tmp_path, frame))
    assert data.statement.endswith("; left out 'id', 'same', 'empty'.")
    assert torch.equal(everything(data), everything(own(written(tmp_path, rows(), "other.csv"))))
    # As a table that pandas wrote with its index.
    assert "left out 'Unnamed: 0'" in own(written(tmp_path, rows().to_csv())).statement
    assert everything(own(written(tmp_path, frame), drop=["colour"])).shape == (20, 1)


def test_a_column_missing_in_the_whole_training_part_stays_finite(tmp_path: Path) -> None:
    frame = rows().assign(rare=[1.0, 2.0] + [np.nan] * 18)
    data = own(written(tmp_path, frame), train=2)
    for seed in range(5):
        assert all(part.x.isfinite().all() for part in data.splits(seeded(seed)))


def test_numbers_of_nine_digits_are_scaled_before_they_are_rounded_to_float32(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, rows().assign(age=10**9 + rows().age))
    expected = everything(own(written(tmp_path, rows(), "small.csv")))
    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(everything(own(path)), expected.float())


def test_fields_may_be_separated_by_tabs(tmp_path: Path) -> None:
    path = written(tmp_path, rows().to_csv(index=False, sep="\t"), "my.tsv")
    assert torch.equal(
        everything(own(path, separator="\\t")), everything(own(written(tmp_path, rows())))
    )


def test_rows_bear_their_place_in_the_file_or_the_number_in_a_column(tmp_path: Path) -> None:
    path = written(tmp_path, rows().assign(case=100 - 3 * np.arange(20)))
    plain, named = own(path, drop=["case"]), own(path, row_id="case")
    for part, same in zip(plain.splits(seeded(0)), named.splits(seeded(0)), strict=True):
        assert torch.equal(same.index, 100 - 3 * part.index)
        assert torch.equal(part.x, same.x)
        assert torch.equal(part.y, part.index % 2)


def test_rows_known_to_be_clean_are_for_validation_then_for_test(tmp_path: Path) -> None:
    clean = np.arange(20) % 5 < 2
    path = written(tmp_path, rows().assign(checked=clean))
    parts = own(path, clean="checked").splits(seeded(0))
    assert sorted(parts.validation.index.tolist()) == np.flatnonzero(clean).tolist()
    assert [len(part.y) for part in parts] == [9, 8, 3]  # 12 as 60 : 20
    parts = own(path, clean="checked", validation=5).splits(seeded(0))
    assert [int(clean[part.index].sum()) for part in parts] == [0, 5, 3]
    assert len({int(row) for part in parts for row in part.index}) == 20
    assert parts.train.x.shape[1] == 4  # the mark is no feature
    text = message(lambda: own(path, clean="checked", validation=9).splits(seeded(0)))
    assert "needs validation <= 8, the rows that column 'checked' calls clean, got 9" in text
    text = message(own(path, clean="colour").read)
    assert "true and false, or 1 and 0, in column 'colour'" in text


CSV = rows().to_csv(index=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("age,churn\n", "needs rows, got none"),
        (CSV.replace("\n49,green,yes", "\n49,green,yes,1"), "line 3 has 4 fields, the header 3"),
        (CSV.replace("\n49,green,yes", "\n49,green"), "line 3 has 2 fields, the header 3"),
        (CSV.replace("green", '"green', 1), "unexpected end of data"),
        (CSV.replace("green", '"gr"een', 1), "line 3: ',' expected after '\"'"),
        (CSV.replace("green", "gr\0een", 1), "line 3 holds a NUL byte"),
        (CSV.encode("utf-16"), "line 1 holds a NUL byte"),
        (CSV.replace("green", "vert\xe9", 1).encode("latin1"), "line 3 is not UTF-8"),
        (CSV.replace("age,", "churn,"), "two columns are called 'churn'"),
        (CSV.replace(",", ";"), "one column alone, 'age;colour;churn'; set data.separator"),
        (b"PK\x03\x04" + CSV.encode(), "it is a zip file"),
        (gzip.compress(CSV.encode(), mtime=0)[:-9], "ended before the end-of-stream"),
        (b"\x1f\x8b\x08" + bytes(30), "cannot read"),
        (CSV.replace("\n49,", "\ninf,"), "in column 'age' of PATH, got 'inf' in row 1"),
        pytest.param(
            CSV.replace("\n49,", "\n1e999,"),
            "got 'inf' in row 1",
            marks=pytest.mark.skipif(pd.__version__ < "3", reason="pandas 2 takes it for a text"),
        ),
        (CSV.replace("green,yes", "green,"), "a value of 'churn' in every row, got none in"),
        (CSV.replace("49,green,yes", "49,green,maybe"), "of 'maybe', in row 1 of column 'churn'"),
        (CSV.replace("yes", "no"), "two classes at least, got 1 in column 'churn'"),
        (CSV.replace("age", "Churn").replace("churn", "x"), "Did you mean 'Churn'?"),
        ("x" * (10**6 + 1), "reads at most 1 MB"),
        ("day,churn\n" + "2020-01-45,no\n2020-01-01,yes\n" * 2, "dates in column 'day'"),
        ("a,churn\n1,x\n1,y\n1,x\n1,y\n", "needs a column to predict 'churn' from, got none"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_named_with_the_place(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    path = written(tmp_path, content)
    text = message(own(path).read)
    assert text.startswith("Table ")
    assert str(path) in text
    assert reason.replace("PATH", str(path)) in text


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    assert "Table needs data.path=..., got null" in message(own(None).read)
    assert "got a folder" in message(own(tmp_path).read)
    assert "to exist, got" in message(own(tmp_path / "absent.csv").read)
    assert "neither a file nor a folder" in message(own(Path("/dev/zero")).read)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"target": "colur"}, "got colur. Did you mean 'colour'? It has age, colour, churn."),
        ({"target": None}, "needs target to be a column"),
        ({"drop": ["ag"]}, "needs drop to be a column"),
        ({"row_id": "colour"}, "needs distinct whole numbers in column 'colour'"),
        ({"row_id": "age"}, "got '1' in row 9"),  # as in row 7: (7 - 8)^2 = (9 - 8)^2
        ({"max_levels": 2}, "at most 2 levels in a column of texts, got 3 in 'colour'"),
        ({"target": "age", "max_levels": 3}, "Use data=regression_table for a real target"),
    ],
    ids=str,
)
def test_a_setting_that_does_not_fit_the_table_is_named(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    assert reason in message(own(written(tmp_path, rows()), **settings).read)


@pytest.mark.parametrize(
    "settings",
    [
        {"drop": "age"},
        {"missing": "?"},
        {"separator": ", "},
        {"max_levels": 0},
        {"max_megabytes": float("nan")},
        {"train": 0},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_before_anything_is_read(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    (name,) = settings
    assert f"data.{name}" in message(lambda: own(tmp_path, **settings))


def test_a_target_that_is_no_number_is_named(tmp_path: Path) -> None:
    for target in ("colour", "churn"):
        text = message(own(written(tmp_path, rows()), RegressionTable, target=target).read)
        assert f"RegressionTable needs finite numbers as targets in column {target!r}" in text
        assert "in row 0" in text


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(CSV.encode() + bytes(10**8), 1))
    assert "reads at most 1 MB" in message(bounded(own(path).read))


def test_a_small_file_that_would_be_large_as_numbers_is_refused(tmp_path: Path) -> None:
    # 2,000 rows of 1,000 levels are 16 MB, from 16 kB.
    frame = pd.DataFrame({"word": np.arange(2000) % 1000, "churn": np.arange(2000) % 2})
    path = written(tmp_path, frame.assign(word="w" + frame.word.astype(str)))
    text = message(bounded(own(path, max_levels=1000).read))
    assert "reads at most 1 MB, got more in" in text
    assert "as numbers" in text


def test_a_pickle_is_not_a_table(tmp_path: Path) -> None:
    path = written(tmp_path, pickle.dumps(Mine(tmp_path / "ran")), "my.pkl")
    assert str(path) in message(own(path).read)
    assert not (tmp_path / "ran").exists()


has_pyarrow = importlib.util.find_spec("pyarrow") is not None


@pytest.mark.skipif(has_pyarrow, reason="pyarrow is here")
def test_parquet_asks_for_pyarrow(tmp_path: Path) -> None:
    text = message(own(written(tmp_path, b"PAR1", "my.parquet")).read)
    assert "pip install pyarrow" in text


@pytest.mark.skipif(not has_pyarrow, reason="needs pyarrow")
def test_parquet_is_read_as_the_same_table_in_csv(tmp_path: Path) -> None:
    frame = standins.frame().drop(columns="price")
    csv = everything(own(written(tmp_path, frame)))
    frame["since"] = pd.to_datetime(frame.since)
    frame["colour"] = frame.colour.astype("category")
    frame.to_parquet(tmp_path / "my.parquet")
    assert torch.equal(everything(own(tmp_path / "my.parquet")), csv)
    written(tmp_path, (tmp_path / "my.parquet").read_bytes()[:-10], "short.parquet")
    assert "Table cannot read" in message(own(tmp_path / "short.parquet").read)
    wide = pd.DataFrame({"same": np.zeros(10**6), "churn": np.zeros(10**6, int)})
    wide.to_parquet(tmp_path / "wide.parquet")
    assert "reads at most 1 MB" in message(bounded(own(tmp_path / "wide.parquet").read))


def test_weights_are_written_under_the_row_numbers_of_the_user(tmp_path: Path) -> None:
    path = written(tmp_path, rows().assign(case=100 - 3 * np.arange(20)))
    config = composed(
        *("task=reweight", "data=table", f"data.path={path}", "data.target=churn"),
        *("data.row_id=case", "outer_steps=1", "inner_steps=1", "device=cpu"),
    )
    runner = entry.build(config, entry.resolved(config), tmp_path, {})
    runner.run()
    (weights,) = (path for path in runner.result() if path.name == "weights.csv")
    numbers = pd.read_csv(weights)["index"]
    assert len(numbers) == 12
    assert set(numbers) <= set(100 - 3 * np.arange(20))


# ---- arrays


def npz(path: Path, **settings: Any) -> Arrays:
    config = OmegaConf.load(CONF / "npz.yaml")
    given = {**config, "path": str(path), "max_megabytes": 1.0, **settings}
    return Arrays(**{key: value for key, value in given.items() if key != "_target_"})


X, Y = np.arange(40.0).reshape(10, 4), np.arange(10) % 2


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", np.longdouble, np.uint8])
def test_arrays_are_read_in_any_byte_order_and_bytes_divided_by_255(
    tmp_path: Path, dtype: Any
) -> None:
    np.savez(tmp_path / "my.npz", x=np.asfortranarray(X).astype(dtype), y=Y + 7)
    data = npz(tmp_path / "my.npz")
    pool, official = data.read()
    assert official is None
    torch.testing.assert_close(pool.x, torch.from_numpy(X / (255 if dtype is np.uint8 else 1)))
    assert torch.equal(pool.y, torch.from_numpy(Y))
    assert data.class_names == ["7", "8"]
    parts = data.splits(seeded(0))
    assert [len(part.y) for part in parts] == [6, 2, 2]
    assert torch.equal(parts.train.x, pool.x[parts.train.index])


def test_arrays_may_have_other_names_texts_for_labels_and_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "my.npz", a=images, b=np.array(["cat", "ant"])[Y])
    data = npz(tmp_path / "my.npz", x="a", y="b", channels_last=True, standardize=True)
    pool, _ = data.read()
    torch.testing.assert_close(pool.x[3, 2, 1, 4] * 255, torch.tensor(float(images[3, 1, 4, 2])))
    assert data.class_names == ["ant", "cat"]
    assert torch.equal(pool.y, torch.from_numpy(1 - Y))
    train = data.splits(seeded(0)).train.x
    # Of 6 images of 20 pixels by channel: exact to some hundred roundings.
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-13, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (X, Y[:9], "shape [n] beside 'x' of shape [n, ...]"),
        (X, Y[:, None], "shape [n] beside"),
        (X[:, 0], Y, "shape [n] beside"),
        (X[:0], Y[:0], "shape [n] beside"),
        (X.astype(complex), Y, "floating or whole numbers in 'x'"),
        (X, Y / 1, "whole numbers or texts in 'y'"),
        (np.where(X == 9, np.nan, X), Y, "finite numbers in 'x' of PATH, got nan at [2, 1]"),
        (np.where(X == 9, -np.inf, X), Y, "got -inf at [2, 1]"),
        (X, 0 * Y, "two classes at least, got 1 in 'y'"),
        (X, np.where(Y * X[:, 0] == 36, 5, Y), "one of '5', in row 9"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], reason: str
) -> None:
    path = tmp_path / "my.npz"
    np.savez(path, x=x, y=y)
    text = message(npz(path).read)
    assert text.startswith("Arrays ")
    assert reason.replace("PATH", str(path)) in text


def test_channels_last_needs_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", x=X, y=Y)
    assert "[n, height, width, channels]" in message(
        npz(tmp_path / "my.npz", channels_last=True).read
    )
    assert "needs an array 'z'" in message(npz(tmp_path / "my.npz", x="z").read)


def test_an_object_array_is_refused_unread(tmp_path: Path) -> None:
    for names in ({"x": X}, {"y": Y}):
        objects = np.array([Mine(tmp_path / "ran")] * 10, dtype=object)
        np.savez(tmp_path / "my.npz", **{"x": objects, "y": objects} | names)
        assert "pickled objects" in message(npz(tmp_path / "my.npz").read)
        np.savez(tmp_path / "my.npz", x=X, y=Y)
        with zipfile.ZipFile(tmp_path / "my.npz", "w") as archive:
            for name in ("x", "y"):
                archive.writestr(f"{name}.npy", pickle.dumps(Mine(tmp_path / "ran")))
        assert "cannot read 'x'" in message(npz(tmp_path / "my.npz").read)
    assert not (tmp_path / "ran").exists()


def member(shape: str, content: bytes) -> bytes:
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member("(10, 1)", bytes(79)), "promises 80 bytes, there are 79"),
        (member("(10, 1)", bytes(81)), "promises 80 bytes, there are 81"),
        (member("(1000000000000,)", bytes(80)), "promises 8000000000000 bytes, there are 80"),
        (member("(-10, -1)", bytes(80)), "cannot read"),
        (member("(10, 1)", b"")[:60], "EOF"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "format version (9, 0)"),
        (b"", "cannot read"),
        (b"GIF89a", "cannot read"),
        (member("__import__('os')", bytes(80)), "malformed node"),
    ],
)
def test_a_member_is_what_its_header_promises(tmp_path: Path, content: bytes, reason: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, Y)
    with zipfile.ZipFile(tmp_path / "my.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", buffer.getvalue())
    text = message(bounded(npz(tmp_path / "my.npz").read))
    assert "Arrays cannot read 'x' in" in text
    assert reason in text


def test_a_bomb_in_an_npz_file_is_not_unpacked_whatever_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    np.savez_compressed(path, x=np.zeros((10, 10**6)), y=Y)
    assert "reads at most 1 MB" in message(bounded(npz(path).read))
    size = struct.pack("<I", 8 * 10**7 + 128)
    assert path.read_bytes().count(size) >= 1
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 500)))
    assert "cannot read 'x'" in message(bounded(npz(path).read))


def test_a_file_that_is_no_npz_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", x=X, y=Y)
    whole = (tmp_path / "my.npz").read_bytes()
    for damaged in (b"", whole[:-30], whole[:300] + b"?" + whole[301:]):
        path = written(tmp_path, damaged, "other.npz")
        text = message(npz(path).read)
        assert "to be an npz file" in text or "cannot read" in text
    assert "got null" in message(partial(read_npz, None, ("x",), "Arrays", 1.0))
    assert "to be a file, got a folder" in message(npz(tmp_path).read)

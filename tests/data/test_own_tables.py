"""Tables of one's own: read as they are meant, or refused by line and column."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import standins
import torch
from configs import composed
from data_files import Trap, bounded, message
from own_tables import everything, own, written
from problems import seeded
from runners import runner_in
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bilevel_cli.data.table import RegressionTable

pytestmark = pytest.mark.usefixtures("data_cache")


def rows(count: int = 20) -> pd.DataFrame:
    numbers = np.arange(count)
    return pd.DataFrame(
        {
            "age": (numbers - 8) ** 2,
            "colour": np.array(["red", "green", "blue"])[numbers % 3],
            "churn": np.array(["no", "yes"])[numbers % 2],
        }
    )


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
    assert "numbers but for '?'" in message(own(path, max_levels=5).read)
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


def test_results_call_rows_by_their_place_in_the_file_or_by_a_column(tmp_path: Path) -> None:
    path = written(tmp_path, rows().assign(case=100 - 3 * np.arange(20)))
    plain, named = own(path, drop=["case"]), own(path, row_id="case")
    for part, same in zip(plain.splits(seeded(0)), named.splits(seeded(0)), strict=True):
        assert torch.equal(same.index, part.index)
        assert plain.names_of(part.index).tolist() == part.index.tolist()
        cases = [str(100 - 3 * number) for number in part.index.tolist()]
        assert named.names_of(same.index).tolist() == cases
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
        (CSV.encode("utf-16"), "line 1 is not UTF-8, but utf-16 reads 'age,colour,churn'"),
        (CSV.replace("green", "vert\xe9", 1).encode("latin1"), "line 3 is not UTF-8"),
        (CSV.replace("age,", "churn,"), "two columns are called 'churn'"),
        (CSV.replace(",", ";"), "one column alone, 'age;colour;churn', but ';' reads 3 columns"),
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
        ({"row_id": "colour"}, "needs a value of its own for each row in column 'colour'"),
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
    path = written(tmp_path, pickle.dumps(Trap(tmp_path / "ran")), "my.pkl")
    assert str(path) in message(own(path).read)
    assert not (tmp_path / "ran").exists()


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


@pytest.mark.parametrize(
    "cases",
    [
        [str(100 - 3 * number) for number in range(20)],
        [f"{number:03d}" for number in range(20)],
        [str(2**64 - 1 - number) for number in range(20)],
        [f'Ann "{number}", Ltd.' for number in range(20)],
    ],
    ids=["numbers", "007", "up to 2^64", "texts"],
)
def test_weights_are_written_under_the_names_that_the_user_gave(
    cases: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path, rows().assign(case=cases))
    config = composed(
        *("task=reweight", "data=table", f"data.path={path}", "data.target=churn"),
        *("task/noise=none", "data.row_id=case", "outer_steps=1", "inner_steps=1", "device=cpu"),
    )
    runner = runner_in(config, tmp_path)
    runner.run()
    (weights,) = (path for path in runner.result() if path.name == "weights.csv")
    table = pd.read_csv(weights, dtype=str)
    assert len(set(table["index"])) == len(table) == 12
    labels = dict(zip(cases, rows().churn, strict=True))
    assert table.label.tolist() == [labels[case] for case in table["index"]]

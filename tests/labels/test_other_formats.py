"""Workbooks and Parquet files whose labels are checked: what is read, and what --out writes."""

from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from bilevel_cli.data.table.dialect import PLAIN
from bilevel_cli.labels.own_file import ADDED, OwnFile, Wanted, read, write

COUNT = 60
CASES = [f"{number:04d}" for number in range(COUNT)]
AMOUNTS = [(number - 8) ** 2 + 0.25 for number in range(COUNT)]
FRAME = pd.DataFrame(
    {"case": CASES, "amount": AMOUNTS, "churn": [["no", "yes"][n % 2] for n in range(COUNT)]}
)


def wanted(path: Path, *drop: str) -> Wanted:
    return Wanted(path, "churn", "case", drop, PLAIN, 5, 0)


def out(own: OwnFile, folder: Path) -> pd.DataFrame:
    """What --out writes, as texts, without the columns that it adds."""
    nothing = pd.DataFrame(dict.fromkeys(ADDED, [0.5] * COUNT))
    write(own, nothing, PLAIN, folder / "out.csv")
    return pd.read_csv(folder / "out.csv", dtype=str).drop(columns=list(ADDED))


@pytest.mark.parametrize("kind", ["csv", "xlsx", "parquet"])
def test_a_table_of_each_format_comes_out_as_the_same_csv(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"my.{kind}"
    if kind == "csv":
        FRAME.to_csv(path, index=False)
    elif kind == "xlsx":
        FRAME.to_excel(path, index=False)
    else:
        FRAME.to_parquet(path, index=False)
    own = read(wanted(path))
    assert own.left_out == {}
    pd.testing.assert_frame_equal(out(own, tmp_path), FRAME.astype(str))


def test_errors_of_a_workbook_are_told_and_stay_in_the_file(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in [list(FRAME.columns), *FRAME.to_numpy(object).tolist()]:
        book.active.append(row)
    book.active["B4"] = "#DIV/0!"
    book.save(tmp_path / "my.xlsx")
    own = read(wanted(tmp_path / "my.xlsx"))
    assert own.note == ("Cells with errors are missing values: 1 of #DIV/0!, the first in B4.")
    assert out(own, tmp_path).amount[2] == "#DIV/0!"


def test_an_index_names_the_rows_and_lists_are_named_and_left_out(tmp_path: Path) -> None:
    frame = FRAME.set_index("case").assign(tags=pd.Series([[1, 2]] * COUNT, CASES, dtype=object))
    frame.to_parquet(tmp_path / "my.parquet")
    own = read(wanted(tmp_path / "my.parquet"))
    assert list(own.left_out) == ["tags"]
    assert own.left_out["tags"].endswith(", which --out leaves out")
    pd.testing.assert_frame_equal(out(own, tmp_path), FRAME.astype(str))
    plain = Wanted(tmp_path / "my.parquet", "churn", None, (), PLAIN, 5, 0)
    assert read(plain).left_out["case"] == "the index of the table"


def test_whole_numbers_with_gaps_come_out_of_parquet_as_whole_numbers(tmp_path: Path) -> None:
    visits = pd.array([None, *range(1, COUNT)], dtype="Int64")
    FRAME.assign(visits=visits).to_parquet(tmp_path / "my.parquet")
    found = out(read(wanted(tmp_path / "my.parquet")), tmp_path).visits
    assert found.isna().tolist() == [True] + [False] * (COUNT - 1)
    assert found[1:].tolist() == [str(number) for number in range(1, COUNT)]

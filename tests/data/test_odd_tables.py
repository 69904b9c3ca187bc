"""A corpus of odd tables: each is read as its plain twin, or refused in one line; none loses a row.

The twin has 20 rows of a number, a text and a label. Where a message proposes settings, they are
followed as a shell and Hydra would.
"""

import bz2
import decimal
import gzip
import importlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
import torch
from data_files import message
from own_tables import everything, followed, own

COUNT = 20
NUMBERS = [(number - 8) ** 2 - 40 for number in range(COUNT)]
COLOURS = [["red", "green", "blue"][number % 3] for number in range(COUNT)]
CHURN = [["no", "yes"][number % 2] for number in range(COUNT)]
FRAME = pd.DataFrame({"n": NUMBERS, "colour": COLOURS, "churn": CHURN})
CSV = FRAME.to_csv(index=False)
LINES = CSV.splitlines()


def lines(change: Callable[[str], str], header: str = LINES[0]) -> str:
    """The table with every line below the header changed."""
    return "\n".join([header, *map(change, LINES[1:])]) + "\n"


def numbers(change: Callable[[int], str]) -> str:
    """The table with every number written otherwise."""
    return FRAME.assign(n=[change(number) for number in NUMBERS]).to_csv(index=False)


def colours(change: Callable[[str], str]) -> str:
    return FRAME.assign(colour=FRAME.colour.map(change)).to_csv(index=False)


def more(column: Any) -> str:
    return FRAME.assign(more=column).to_csv(index=False)


def zipped(members: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def book(change: Callable[[Any], object] = bool, frame: pd.DataFrame = FRAME) -> bytes:
    """The table as a workbook."""
    made = openpyxl.Workbook()
    made.active.append(list(frame.columns))
    for row in frame.to_numpy(object).tolist():
        made.active.append(row)
    change(made.active)
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


def parquet(frame: pd.DataFrame = FRAME, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, **settings)
    return buffer.getvalue()


def arrow(**columns: Any) -> bytes:
    """The table and more columns, as other programs than pandas write it."""
    made: Any = importlib.import_module("pyarrow")
    buffer = io.BytesIO()
    table = made.table(FRAME.to_dict("list") | columns)
    importlib.import_module("pyarrow.parquet").write_table(table, buffer)
    return buffer.getvalue()


def feather() -> bytes:
    buffer = io.BytesIO()
    FRAME.to_feather(buffer)
    return buffer.getvalue()


def orc() -> bytes:
    buffer = io.BytesIO()
    FRAME.to_orc(buffer)
    return buffer.getvalue()


# ---- read as they are

SAME: dict[str, str | bytes] = {
    "a byte order mark": CSV.encode("utf-8-sig"),
    "lines of Windows": CSV.replace("\n", "\r\n"),
    "lines of old Macs": CSV.replace("\n", "\r"),
    "blank lines": "\n\n" + CSV.replace("\n", "\n\n") + "\n\n",
    "no last line end": CSV.rstrip("\n"),
    "quotes around all": FRAME.to_csv(index=False, quoting=1),
    "gzip": gzip.compress(CSV.encode()),
    "bzip2": bz2.compress(CSV.encode()),
    "two gzip members": gzip.compress(CSV[:90].encode()) + gzip.compress(CSV[90:].encode()),
    "a separator in a field": colours("{}, dark".format),
    "a line end in a field": colours("{}\ndark".format),
    "a line end of Windows in a field": colours("{}\r\ndark".format),
    "quotes in a field": colours('the "{}" one'.format),
    "letters of all scripts": colours("{}\u4e2d\u0644\U0001f600".format),
    "a line end in a name": CSV.replace("colour", '"col\nour"', 1),
    "blanks around numbers": numbers("  {} ".format),
    "numbers with an exponent": numbers("{:e}".format),
    "numbers with a plus": numbers("{:+d}".format),
    "blanks around labels": lines("{} ".format),
    "a workbook": book(),
    "a packed workbook": gzip.compress(book()),
    "a workbook with a frame of blanks": book(lambda sheet: sheet.insert_rows(1, 4)),
    "a workbook with a hidden sheet": book(
        lambda sheet: setattr(sheet.parent.create_sheet("x"), "sheet_state", "hidden")
    ),
    "a workbook of numbers as texts": book(frame=FRAME.assign(n=FRAME.n.map(str))),
    "Parquet": parquet(),
    "Parquet, packed by zstd": parquet(compression="zstd"),
    "Parquet of categories": parquet(FRAME.assign(colour=FRAME.colour.astype("category"))),
    "Parquet of decimals": arrow(n=[decimal.Decimal(number) for number in NUMBERS]),
    "Parquet with an index": parquet(FRAME.set_axis(range(7, 7 + 3 * COUNT, 3))),
}


@pytest.mark.parametrize("kind", SAME)
def test_an_odd_table_is_read_as_its_plain_twin(kind: str, tmp_path: Path) -> None:
    assert holds_all(own(put(tmp_path, SAME[kind])), tmp_path)


# ---- read with what the message proposes

PROPOSED: dict[str, str | bytes] = {
    "semicolons": CSV.replace(",", ";"),
    "tabs": CSV.replace(",", "\t"),
    "bars": CSV.replace(",", "|"),
    "UTF-16": CSV.encode("utf-16"),
    "UTF-16 without a mark": CSV.encode("utf-16-le"),
    "UTF-32": CSV.encode("utf-32"),
    "Latin letters of Windows": colours("{}\xe4\xdf".format).encode("cp1252"),
    "letters of Japan": colours("{}\u65e5\u672c".format).encode("shift_jis"),
    "typographic minus": numbers(lambda number: str(number).replace("-", "\u2212")),
    "minus behind": numbers(lambda number: f"{abs(number)}-" if number < 0 else str(number)),
    "parentheses": numbers(lambda number: f"({-number})" if number < 0 else str(number)),
    "money": numbers("{} \u20ac".format),
    "per cent": numbers("{}%".format),
    "decimal commas": numbers(lambda number: f"{number},0"),
    "decimal commas and semicolons": numbers(lambda number: f"{number},0")
    .replace('"', "")
    .replace(",", ";")
    .replace(";0;", ",0;"),
}


@pytest.mark.parametrize("kind", PROPOSED)
def test_an_odd_table_is_read_once_its_message_is_followed(kind: str, tmp_path: Path) -> None:
    path = put(tmp_path, PROPOSED[kind])
    data, said = followed(path, rounds=2)
    assert said
    assert holds_all(data, tmp_path)


# ---- read, and what is left out is named

NAMED: dict[str, tuple[str | bytes, str]] = {
    "an empty column": (more(""), "left out 'more'."),
    "a column of one value": (more("same"), "left out 'more'."),
    "numbers of rows": (more(range(COUNT)), "left out 'more'."),
    "an index of pandas": (FRAME.to_csv(), "left out 'Unnamed: 0'."),
    "a separator at the end of each line": (
        CSV.replace("\n", ",\n"),
        "left out 'Unnamed: 3'.",
    ),
    "an index of pandas in a workbook": (
        book(frame=FRAME.reset_index().rename(columns={"index": ""})),
        "left out 'Unnamed: 0'.",
    ),
    "blank columns before a table in a workbook": (
        book(lambda sheet: sheet.insert_cols(1, 2)),
        "left out 'Unnamed: 0', 'Unnamed: 1'.",
    ),
    "Parquet without a value in a column": (parquet(FRAME.assign(more=None)), "left out 'more'."),
    "Parquet with a named index": (
        parquet(FRAME.set_index(pd.Index(range(0, 3 * COUNT, 3), name="case"))),
        "its index 'case' is no input.",
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_what_is_left_out_of_an_odd_table_is_named(kind: str, tmp_path: Path) -> None:
    content, statement = NAMED[kind]
    data = own(put(tmp_path, content))
    assert holds_all(data, tmp_path)
    assert statement in data.statement


# ---- refused in one line

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "it is empty"),
    "line ends alone": ("\r\n\r\n", "it is empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "it is empty"),
    "names alone": (LINES[0], "needs rows, got none"),
    "two files one behind the other": (CSV * 2, f"line {COUNT + 2} is the header again"),
    "one column": (FRAME[["churn"]].to_csv(index=False), "one column alone, 'churn'"),
    "one row": ("\n".join(LINES[:2]), "needs two classes at least, got 1"),
    "a longer row": (CSV.replace("9,", "9,1,", 1), "fields, the header 3"),
    "shorter rows": (lines(lambda line: line.rpartition(",")[0]), "line 2 has 2 fields"),
    "a separator at the end of rows alone": (lines("{},".format), "line 2 has 4 fields"),
    "a comment above": ("# made by hand, 2024\n" + CSV, "line 2 has 3 fields, the header 2"),
    "a comment of one field above": ("# made by hand\n" + CSV, "line 2 has 3 fields, the header 1"),
    "a separator told in line 1": (f"sep=,\n{CSV}", "line 1"),
    "a sum below": (CSV + "total,,\n", "column 'n' looks like numbers but for 'total'"),
    "two columns of one name": (CSV.replace("n,", "colour,", 1), "two columns are called 'colour'"),
    "two columns without a name": (CSV.replace("n,colour", ",", 1), "two columns are called ''"),
    "a quotation mark that stays open": (CSV.replace("red", '"red', 1), "line"),
    "a quotation mark within": (CSV.replace("red", '"r"ed', 1), "line 2"),
    "a zero byte": (CSV.replace("red", "r\0ed", 1), "line 2 holds a NUL byte"),
    "a field of 200,000 letters": (CSV.replace("red", "r" * 200_000, 1), "line 2: field larger"),
    "inf": (CSV.replace("\n24,", "\n-inf,"), "in row 0"),
    "a label that is missing": (CSV.replace("red,no", "red,", 1), "got none in 1 rows"),
    "a class of one row": (CSV.replace("red,no", "red,maybe", 1), "one of 'maybe', in row 0"),
    "a zip file": (zipped({"my.csv": CSV}), "it is a zip file; unpack it"),
    "half a zip file": (zipped({"my.csv": CSV})[:60], "it is a zip file or workbook, and damaged"),
    "half a gzip file": (gzip.compress(CSV.encode())[:-12], "ended before the end"),
    "a page": (f"<html><table>{CSV}</table></html>", "it is a page or XML"),
    "Feather": (feather(), "it is a Feather or Arrow file"),
    "ORC": (orc(), "it is an ORC file"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "an .xls workbook"),
    "OpenDocument": (zipped({"mimetype": "", "content.xml": ""}), "an OpenDocument file"),
    "a workbook of several sheets": (
        book(lambda sheet: sheet.parent.create_sheet("Other")),
        "which has 'Sheet', 'Other'",
    ),
    "a workbook with a title": (
        book(lambda sheet: (sheet.insert_rows(1), sheet.cell(1, 1, "Customers"))),
        "cell B1 should be the name of a column",
    ),
    "a workbook with merged names": (
        book(lambda sheet: sheet.merge_cells("A1:B1")),
        "cell B1 should be the name of a column",
    ),
    "a workbook with a formula that was not computed": (
        book(lambda sheet: sheet.cell(3, 1, "=1+1")),
        "the formula in cell A3 has no value",
    ),
    "an empty workbook": (book(frame=pd.DataFrame()), "its sheet is empty"),
    "half a workbook": (book()[:-400], "it is a zip file or workbook, and damaged"),
    "Parquet of lists": (arrow(tags=[[1, 2]] * COUNT), "in column 'tags' of"),
    "Parquet of bytes": (arrow(tags=[b"a"] * COUNT), "in column 'tags' of"),
    "half a Parquet file": (parquet()[:-100], "cannot read"),
    "Parquet without rows": (parquet(FRAME[:0]), "needs rows, got none"),
}

if pd.__version__ >= "3":  # pandas 2 takes it for a text
    REFUSED["1e400"] = (CSV.replace("\n24,", "\n1e400,"), "in row 0")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_cannot_be_read_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, reason = REFUSED[kind]
    path = put(tmp_path, content)
    text = message(own(path).read)
    assert reason in text
    assert str(path) in text
    assert len(text.replace(str(tmp_path), "")) <= 400


def put(folder: Path, content: str | bytes) -> Path:
    path = folder / "my.data"  # the name of a file tells nothing
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def holds_all(data: Any, folder: Path) -> bool:
    """Whether a table has the features and labels of the plain one, and speaks of all columns.

    The features of a category are in the order of its levels, which a change of all texts keeps.
    """
    (folder / "plain.csv").write_text(CSV)
    plain = own(folder / "plain.csv")
    torch.testing.assert_close(everything(data), everything(plain), atol=1e-12, rtol=0)
    pool, _ = data.read()
    assert [data.class_names[label] for label in pool.y] == CHURN
    assert f" {COUNT} rows, 4 features from 2 columns (1 of kind number, 1" in data.statement
    return bool(re.search(r"1 of kind category\)", data.statement))

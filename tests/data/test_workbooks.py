"""Workbooks: a sheet is read as its plain twin in CSV, or refused by the cell that is wrong."""

import datetime as dt
import importlib.util
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
import standins
import torch
from data_files import bounded, everything, message, own
from torch import Tensor

from bilevel_cli.data.table import RegressionTable, workbook
from bilevel_cli.data.table.name import Name

COUNT = 20
AMOUNTS = [(number - 8) ** 2 for number in range(COUNT)]
CHURN = [["no", "yes"][number % 2] for number in range(COUNT)]
ROWS: list[list[Any]] = [["x", "churn"], *map(list, zip(AMOUNTS, CHURN, strict=True))]


def book(folder: Path, rows: list[list[Any]], change: Callable[[Any], object] = bool) -> Path:
    """A workbook of one sheet with these rows, which `change` gets before it is saved."""
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(row)
    change(made.active)
    made.save(folder / "my.xlsx")
    return folder / "my.xlsx"


def with_column(title: str, values: list[Any]) -> list[list[Any]]:
    return [[title, *ROWS[0]], *([one, *row] for one, row in zip(values, ROWS[1:], strict=True))]


def rewritten(path: Path, part: str, old: str, new: str, more: dict[str, bytes] = {}) -> Path:  # noqa: B006
    """The workbook with a text of one of its parts replaced, and with parts more."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old.encode() in parts[part]
    parts[part] = parts[part].replace(old.encode(), new.encode())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (parts | more).items():
            archive.writestr(name, content)
    return path


SHEET = "xl/worksheets/sheet1.xml"


def plain(folder: Path, rows: list[list[Any]] = ROWS) -> Tensor:
    """What a CSV file with these values is read as."""
    pd.DataFrame(rows[1:], columns=rows[0]).to_csv(folder / "twin.csv", index=False)
    return everything(own(folder / "twin.csv"))


# ---- values


def test_a_sheet_is_read_as_the_same_table_in_csv(tmp_path: Path) -> None:
    frame = standins.frame().drop(columns="price")
    frame.to_csv(tmp_path / "my.csv", index=False)
    csv = own(tmp_path / "my.csv")
    frame.assign(since=pd.to_datetime(frame.since)).to_excel(tmp_path / "my.xlsx", index=False)
    data = own(tmp_path / "my.xlsx")
    assert torch.equal(everything(data), everything(csv))
    assert data.class_names == csv.class_names
    assert data.statement == csv.statement.replace("my.csv", "my.xlsx")


DAYS = [dt.date(2024, 2, 20) + dt.timedelta(days=amount) for amount in AMOUNTS]
GAPS = [None if number % 5 == 3 else amount for number, amount in enumerate(AMOUNTS)]
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "gaps": (GAPS, GAPS),
    "dates": (DAYS, DAYS),
    "moments": (
        [dt.datetime.combine(day, dt.time(7, 30)) for day in DAYS],
        [f"{day}T07:30" for day in DAYS],
    ),
    "times": (
        [dt.time(amount // 15, 30) for amount in AMOUNTS],
        [(amount // 15 + 0.5) / 24 for amount in AMOUNTS],
    ),
    "durations": (
        [dt.timedelta(hours=12 * amount + 6) for amount in AMOUNTS],
        [amount / 2 + 0.25 for amount in AMOUNTS],
    ),
    "booleans with gaps": ([True, None, False, True] * 5, [True, None, False, True] * 5),
    "booleans and numbers": ([True, 2, False, 1] * 5, ["True", "2", "False", "1"] * 5),
    "numbers as texts": ([str(amount) for amount in AMOUNTS], AMOUNTS),
    "numbers of which some are texts": (
        [str(amount) if amount % 2 else amount for amount in AMOUNTS],
        AMOUNTS,
    ),
    "numbers and texts": (["many", 2, 3, 3.5] * 5, ["many", "2", "3", "3.5"] * 5),
    "dates and texts": (["never", DAYS[0], DAYS[1], None] * 5, ["never", *DAYS[:2], None] * 5),
}


@pytest.mark.parametrize("kind", VALUES)
def test_cells_of_each_kind_are_read_as_their_twin_in_csv(kind: str, tmp_path: Path) -> None:
    cells, values = VALUES[kind]
    found = everything(own(book(tmp_path, with_column("more", cells))))
    expected = plain(tmp_path, with_column("more", values))
    # A spreadsheet keeps microseconds as 1e-11 of a day.
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_percents_and_amounts_of_money_are_the_numbers_behind_them(tmp_path: Path) -> None:
    def shown(sheet: Any) -> None:
        for row in range(2, COUNT + 2):
            sheet.cell(row, 1).number_format = "0.0%" if row % 2 else "#,##0.00 [$EUR]"

    path = book(tmp_path, [["x", "churn"], *([x / 100, y] for x, y in ROWS[1:])], shown)
    torch.testing.assert_close(everything(own(path)), plain(tmp_path), atol=1e-12, rtol=0)


def test_dates_counted_from_1904_are_the_same_dates(tmp_path: Path) -> None:
    def counted(sheet: Any) -> None:
        sheet.parent.epoch = openpyxl.utils.datetime.CALENDAR_MAC_1904

    found = everything(own(book(tmp_path, with_column("day", DAYS), counted)))
    assert torch.equal(found, plain(tmp_path, with_column("day", DAYS)))


def test_a_formula_is_its_last_value_and_one_without_is_refused_by_its_cell(
    tmp_path: Path,
) -> None:
    path = book(tmp_path, ROWS)
    value = f'<c r="A3" t="n"><v>{AMOUNTS[1]}</v></c>'
    formula = value.replace("<v>", '<f>SYSTEM("touch ran")</f><v>')
    assert torch.equal(everything(own(rewritten(path, SHEET, value, formula))), plain(tmp_path))
    blank = '<c r="A3"><f>1+1</f></c>'
    text = message(own(rewritten(path, SHEET, formula, blank)).read)
    assert "the formula in cell A3 has no value" in text
    assert "Open the file in a spreadsheet program and save it" in text


def test_cells_with_errors_are_missing_and_counted(tmp_path: Path) -> None:
    errors = {3: "#N/A", 9: "#DIV/0!", 12: "#N/A"}
    cells = [errors.get(number, amount) for number, amount in enumerate(AMOUNTS)]
    data = own(book(tmp_path, with_column("more", cells)))
    gaps = [None if number in errors else amount for number, amount in enumerate(AMOUNTS)]
    assert torch.equal(everything(data), plain(tmp_path, with_column("more", gaps)))
    assert data.statement.endswith(
        "Cells with errors are missing values: 2 of #N/A, 1 of #DIV/0!, the first in A5."
    )


def test_a_number_that_is_too_large_is_refused_by_its_cell(tmp_path: Path) -> None:
    value = f'<c r="A3" t="n"><v>{AMOUNTS[1]}</v></c>'
    path = rewritten(book(tmp_path, ROWS), SHEET, value, value.replace("</v>", "e400</v>"))
    assert "the number in cell A3 is too large" in message(own(path).read)


def test_ids_stay_as_they_stand(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(COUNT)]
    data = own(book(tmp_path, with_column("case", names)), row_id="case")
    pool, _ = data.read()
    assert data.names_of(pool.index).tolist() == names
    numbers = [2**53 - number for number in range(COUNT)]
    data = own(book(tmp_path, with_column("case", numbers)), row_id="case")
    data.read()
    assert data.names_of(pool.index).tolist() == [str(number) for number in numbers]


def test_a_target_may_be_a_number_of_a_workbook(tmp_path: Path) -> None:
    data = own(book(tmp_path, ROWS), RegressionTable, target="x")
    pool, _ = data.read()
    assert pool.y.tolist() == AMOUNTS


def test_the_table_as_written_has_every_value_as_its_cell(tmp_path: Path) -> None:
    cells = ["007", 7, 7.5, None, True, dt.date(2024, 2, 29), "#N/A", " x "] + [0] * 12
    path = book(tmp_path, with_column("more", cells))
    found = workbook.as_written(path.read_bytes(), Name("Table", str(path)), None, 1)
    written = ["007", "7", "7.5", "", "True", "2024-02-29", "#N/A", " x "] + ["0"] * 12
    assert found["more"].map(str).tolist() == written
    assert list(found.columns) == ["more", "x", "churn"]


# ---- the sheet


def test_one_sheet_of_several_is_named(tmp_path: Path) -> None:
    def more(sheet: Any) -> None:
        sheet.title = "Kunden 2024"
        sheet.parent.create_sheet("Notes").append(["nothing"])

    path = book(tmp_path, ROWS, more)
    text = message(own(path).read)
    assert f"needs the name of a sheet of {path}, which has 'Kunden 2024', 'Notes'" in text
    assert text.endswith("Add \"data.sheet='Kunden 2024'\"")
    assert torch.equal(everything(own(path, sheet="Kunden 2024")), plain(tmp_path))
    text = message(own(path, sheet="Kunden").read)
    assert "got 'Kunden'. Did you mean 'Kunden 2024'? It has 'Kunden 2024', 'Notes'." in text


def test_a_hidden_sheet_is_not_in_the_way(tmp_path: Path) -> None:
    def more(sheet: Any) -> None:
        hidden = sheet.parent.create_sheet("lists")
        hidden.append(["a", "b"])
        hidden.append([1, 2])
        hidden.sheet_state = "hidden"

    path = book(tmp_path, ROWS, more)
    assert torch.equal(everything(own(path)), plain(tmp_path))
    assert "needs target to be a column" in message(own(path, sheet="lists").read)


def test_rows_and_columns_without_a_value_are_passed_over(tmp_path: Path) -> None:
    def framed(sheet: Any) -> None:
        sheet.insert_rows(1, 3)
        sheet.insert_rows(10)
        sheet.insert_cols(1, 2)
        sheet.cell(200, 30).font = openpyxl.styles.Font(bold=True)

    data = own(book(tmp_path, ROWS, framed))
    assert torch.equal(everything(data), plain(tmp_path))
    assert data.statement.startswith(f"my.xlsx: {COUNT} rows")


def test_the_index_that_pandas_writes_is_left_out(tmp_path: Path) -> None:
    pd.DataFrame(ROWS[1:], columns=ROWS[0]).to_excel(tmp_path / "my.xlsx")
    data = own(tmp_path / "my.xlsx")
    assert torch.equal(everything(data), plain(tmp_path))
    assert "left out 'Unnamed: 0'" in data.statement


def titled(sheet: Any) -> None:
    sheet.insert_rows(1)
    sheet["A1"] = "Customers, 2024"


def merged(sheet: Any) -> None:
    sheet.merge_cells("A1:B1")


WRONG: dict[str, tuple[list[list[Any]], Callable[[Any], object], str]] = {
    "a title above": (ROWS, titled, "cell B1 should be the name of a column and is empty"),
    "merged names": (ROWS, merged, "cell B1 should be the name of a column and is empty"),
    "a value beside": (
        [*ROWS, [1, "no", None, "sum"]],
        bool,
        "cell D1 should be the name of a column and is empty",
    ),
    "one name twice": (with_column("x", GAPS), bool, "two columns are called 'x'"),
    "nothing": ([], bool, "its sheet is empty"),
    "names alone": (ROWS[:1], bool, "needs rows, got none below the header"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_sheet_that_is_no_table_is_refused_by_its_cell(kind: str, tmp_path: Path) -> None:
    rows, change, reason = WRONG[kind]
    assert reason in message(own(book(tmp_path, rows, change)).read)


# ---- the file


def test_macros_and_links_to_other_files_are_not_looked_at(tmp_path: Path) -> None:
    rels = '<Relationship Id="rIdX" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/externalLink" Target="externalLinks/externalLink1.xml"/></Relationships>'  # noqa: E501
    path = rewritten(
        *(book(tmp_path, ROWS), "xl/_rels/workbook.xml.rels", "</Relationships>", rels),
        {"xl/vbaProject.bin": b"\0" * 100, "xl/externalLinks/externalLink1.xml": b"<broken"},
    )
    macros = "application/vnd.ms-excel.sheet.macroEnabled.main+xml"
    usual = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    rewritten(path, "[Content_Types].xml", usual, macros).rename(tmp_path / "my.xlsm")
    assert torch.equal(everything(own(tmp_path / "my.xlsm")), plain(tmp_path))


def test_a_missing_reader_is_named_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = book(tmp_path, ROWS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install openpyxl" in message(own(path).read)
    (tmp_path / "my.parquet").write_bytes(b"PAR1\0")
    assert "pip install pyarrow" in message(own(tmp_path / "my.parquet").read)


def sharing(path: Path, before: str, text: str) -> Path:
    """The workbook with a table of one text, which cells of type s share."""
    strings = f'{before}<sst xmlns="{MAIN}"><si><t>{text}</t></si></sst>'
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    parts = {"xl/sharedStrings.xml": strings.encode()}
    return rewritten(path, "[Content_Types].xml", "</Types>", override, parts)


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
CELLS = {
    "a cell in the last corner": '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
    "a row past the last": '<row r="99999999999"><c r="A1"><v>1</v></c></row>',
    "a column past the last": '<row r="22"><c r="ZZY22"><v>1</v></c></row>',
    "a long name": '<row r="22"><c r="ZZZZZZZ22"><v>1</v></c></row>',
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_small_file_of_a_large_sheet_is_refused_without_the_memory(
    kind: str, tmp_path: Path
) -> None:
    end = "</sheetData>"
    path = rewritten(book(tmp_path, ROWS), SHEET, end, CELLS[kind] + end)
    assert str(path) in message(bounded(own(path).read))


def test_entities_that_grow_are_refused_without_the_memory(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    before = f'<!DOCTYPE x [<!ENTITY l0 "{"ha" * 500}">{laughs}]>'
    path = sharing(book(tmp_path, ROWS), before, "&l9;")
    assert str(path) in message(bounded(own(path).read, megabytes=100))


def test_a_text_that_many_cells_share_is_counted_for_each(tmp_path: Path) -> None:
    # 3,000 cells of 10,000 letters are 30 MB, from 30 kB.
    path = book(tmp_path, [["x", "churn"], *([number, "no"] for number in range(3000))])
    sharing(path, "", "w" * 10_000)
    rewritten(path, SHEET, 't="n"><v>', 't="s"><v>')
    rewritten(path, SHEET, "<v>", "<v>00")
    with zipfile.ZipFile(path) as archive:
        content = archive.read(SHEET).decode()
    numbers = re.sub(r"<v>00\d+</v>", "<v>0</v>", content)
    rewritten(path, SHEET, content, numbers)
    assert path.stat().st_size < 50_000
    assert "reads at most 1 MB" in message(bounded(own(path).read, megabytes=10))


def test_a_part_that_unpacks_to_more_than_the_limit_is_not_unpacked(tmp_path: Path) -> None:
    path = rewritten(book(tmp_path, ROWS), SHEET, "<sheetData>", f"<sheetData>{' ' * 5 * 10**7}")
    assert "reads at most 1 MB" in message(bounded(own(path).read))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xd0\xcf\x11\xe0" + bytes(500), "an .xls workbook or one with a password"),
        (b"ARROW1\0\0" + bytes(50), "a Feather or Arrow file; save it as Parquet or CSV"),
        (b"ORC\x08\0" + bytes(50), "an ORC file"),
        (b"PARE" + bytes(50), "an encrypted Parquet file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"<!DOCTYPE html><table>", "a page or XML"),
        (b'<?xml version="1.0"?><Workbook/>', "a page or XML"),
        (b"PK\x03\x04x,y\n1,2\n", "it is a zip file or workbook, and damaged"),
    ],
)  # fmt: skip
def test_other_formats_are_refused_by_name(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "my.xlsx"  # whatever its name
    path.write_bytes(content)
    assert reason in message(own(path).read)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("content.xml", "an OpenDocument file, such as .ods; save it as .xlsx"),
        ("xl/workbook.bin", "an .xlsb workbook; save it as .xlsx"),
        ("my.csv", "it is a zip file; unpack it"),
    ],
)
def test_other_zip_files_are_refused_by_name(part: str, reason: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "my.xlsx", "w") as archive:
        archive.writestr(part, "x,y\n1,2\n")
    assert reason in message(own(tmp_path / "my.xlsx").read)


@pytest.mark.parametrize("first", ["PARENT", "PAR1", "ORC", "ARROW1"])
def test_a_csv_file_may_begin_as_other_formats_do(first: str, tmp_path: Path) -> None:
    rows = [[first, "churn"], *ROWS[1:]]
    assert torch.equal(plain(tmp_path, rows), plain(tmp_path))


def test_a_damaged_workbook_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = book(tmp_path, ROWS).read_bytes()
    generator = np.random.default_rng(0)
    refusals = []
    for _ in range(40):
        content = bytearray(whole)
        content[generator.integers(30, len(whole))] ^= 1 << generator.integers(8)
        (tmp_path / "my.xlsx").write_bytes(content)
        try:
            own(tmp_path / "my.xlsx").read()
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert all("\n" not in text and len(text) <= 400 for text in refusals)
    path = rewritten(book(tmp_path, ROWS), SHEET, "</row>", "")
    assert "cannot read" in message(own(path).read)


def test_a_workbook_is_not_called_damaged_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **settings: Any) -> Any:
        raise MemoryError

    path = book(tmp_path, ROWS)
    monkeypatch.setattr(openpyxl, "load_workbook", full)
    with pytest.raises(MemoryError):
        own(path).read()

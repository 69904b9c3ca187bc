"""The sheets of a workbook, row by row: openpyxl opens them, within bounds."""

import importlib
import io
import re
from collections.abc import Iterator
from typing import Any

from bilevel_cli.data.reading import files
from bilevel_cli.data.table.name import Name, require, unreadable
from bilevel_cli.errors import hint

FORMULA = re.compile(rb"<(?:\w+:)?f[ />]")  # in the XML of a sheet
LAST_ROW = 1_048_576  # of a sheet
MOST_STYLES = 20_000_000  # bytes, of which openpyxl makes twenty times as many


def opened(content: bytes, name: Name, wanted: str | None, max_megabytes: float) -> tuple[Any, Any]:
    """The workbook and its sheet, which openpyxl reads row by row.

    Args:
        content: Of the file.
        name: Of the table, for messages.
        wanted: The name of the sheet; None for the only one that is not hidden.
        max_megabytes: Largest size of the file, unpacked.

    Raises:
        ValueError: openpyxl or the sheet is absent, or the workbook is damaged or too large.
    """
    require("openpyxl", "workbook", name)
    openpyxl: Any = importlib.import_module("openpyxl")
    try:
        with files.open_zip(content) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
        fits = sum(sizes.values()) <= max_megabytes * 1e6
        fits &= sizes.get("xl/styles.xml", 0) <= MOST_STYLES
        book = None
        if fits:
            book = openpyxl.load_workbook(
                io.BytesIO(content), read_only=True, data_only=True, keep_links=False
            )
    except Exception as error:
        raise unreadable(name, error) from error
    if book is None:
        raise files.too_large(name.who, name.path, max_megabytes)
    return book, _chosen(book, wanted, name)


def _chosen(book: Any, wanted: str | None, name: Name) -> Any:
    """The sheet of a name; or, for None, the only one that is not hidden."""
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    shown = [title for title, sheet in sheets.items() if sheet.sheet_state == "visible"]
    if wanted is None and len(shown) == 1:
        return sheets[shown[0]]
    if wanted in sheets:
        return sheets[wanted]
    listed = ", ".join(map(repr, list(sheets)[:10])) + ", ..." * (len(sheets) > 10)
    if wanted is None:
        raise ValueError(
            f"{name.who} needs the name of a sheet of {name.path}, which has "
            f"{listed or 'no sheet of cells'}. Add {name.spell('sheet', (shown or ['...'])[0])}"
        )
    raise ValueError(
        f"{name.who} needs a sheet of {name.path}, got {wanted!r}{hint(wanted, sheets)} "
        f"It has {listed}."
    )


def rows_of(sheet: Any, name: Name) -> Iterator[tuple[int, list[Any]]]:
    """The number of each row, from 1, and its cells up to the last that has a value.

    Raises:
        ValueError: The sheet is damaged, or has more rows than a sheet can have.
    """
    # What a sheet says of its size may be wrong.
    sheet.reset_dimensions()
    try:
        for number, row in enumerate(sheet.rows, 1):
            if number > LAST_ROW:
                raise unreadable(name, f"it has more than {LAST_ROW:,} rows")
            cells = list(row)
            while cells and cells[-1].value in (None, ""):
                cells.pop()
            yield number, cells
    except ValueError as error:
        raise error if str(error).startswith(name.who) else unreadable(name, error) from error
    except Exception as error:
        raise unreadable(name, error) from error


def refuse_formulas(content: bytes, sheet: Any, name: Name) -> None:
    """Raises ValueError if a formula has no value: whoever wrote the file did not compute it."""
    openpyxl: Any = importlib.import_module("openpyxl")
    try:
        with files.open_zip(content) as archive:
            parts = [part for part in archive.namelist() if part.endswith(".xml")]
            if not any(FORMULA.search(archive.read(part)) for part in parts):
                return
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, keep_links=False)
    except Exception as error:
        raise unreadable(name, error) from error
    written = rows_of(book[sheet.title], name)
    for (_, values), (_, formulas) in zip(rows_of(sheet, name), written, strict=True):
        for position, cell in enumerate(formulas):
            known = position < len(values) and values[position].value is not None
            if cell.data_type == "f" and not known:
                raise unreadable(
                    name,
                    f"the formula in cell {cell.coordinate} has no value. Open the file in a "
                    "spreadsheet program and save it, so that it has one",
                )

"""CSV files with every digit, whose cells spreadsheets show and do not compute."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from bilevel_cli.records.plain import plain

STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the latter four as East Asian keyboards have them


def write(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes rows of text and numbers; a cell that is NaN or None is unknown, and left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([harmless(_full(cell)) for cell in row] for row in rows)


def harmless(cell: object) -> object:
    """A cell, with an apostrophe before text that a spreadsheet would take for a formula.

    As OWASP advises on "CSV injection". A number stays one, such as -0.5.
    """
    if not isinstance(cell, str):
        return cell
    cell = plain(cell)
    if not cell.lstrip().startswith(STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _full(cell: object) -> object:
    if isinstance(cell, float):
        return repr(float(cell)) if cell == cell else ""
    return cell

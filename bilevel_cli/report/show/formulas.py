"""Cells of CSV files that spreadsheets show and do not compute."""

from bilevel_cli.records.plain import plain

STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the latter four as East Asian keyboards have them


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

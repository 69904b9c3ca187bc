"""Which format a file has, by its first bytes; those that are not read are refused by name."""

from bilevel_cli.data.reading import files
from bilevel_cli.data.table.name import Name, unreadable

CSV, PARQUET, WORKBOOK = "CSV", "Parquet", "workbook"
BOOK = "xl/workbook.xml"  # in the zip file that .xlsx and .xlsm are
ZIP = b"PK\x03\x04"

# With what programs save it as, in the words of their users.
NOT_READ = {
    b"PARE": "an encrypted Parquet file; write it without encryption",
    b"ARROW1": "a Feather or Arrow file; save it as Parquet or CSV",
    b"FEA1": "a Feather file; save it as Parquet or CSV",
    b"ORC": "an ORC file; save it as Parquet or CSV",
    b"Obj\x01": "an Avro file; save it as Parquet or CSV",
    b"\x89HDF": "an HDF5 file; save the table as Parquet or CSV",
    b"SQLite format 3\0": "an SQLite database; save the table as CSV",
    b"$FL2": "an SPSS file; save it as Parquet or CSV",
    b"$FL3": "an SPSS file; save it as Parquet or CSV",
    b"<stata_dta>": "a Stata file; save it as Parquet or CSV",
    b"\xd0\xcf\x11\xe0": "an .xls workbook or one with a password; save it as .xlsx without one",
    b"\xfd7zXZ\0": "packed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"%PDF-": "a PDF file; save the table as CSV or .xlsx",
    b"{\\rtf": "a document; save the table as CSV or .xlsx",
}
MARKUP = (b"<!doctype html", b"<html", b"<?xml", b"<table")  # which some programs call .xls

# Of the parts of a zip file.
PARTS = {
    "xl/workbook.bin": "an .xlsb workbook; save it as .xlsx",
    "content.xml": "an OpenDocument file, such as .ods; save it as .xlsx",
    "Index/Document.iwa": "a workbook of Numbers; export it as .xlsx",
    "word/document.xml": "a document; save the table as CSV or .xlsx",
}


def format_of(content: bytes, name: Name) -> str:
    """The format of a file: CSV, PARQUET or WORKBOOK, which is .xlsx or .xlsm.

    Raises:
        ValueError: It is one that is not read.
    """
    for magic, what in NOT_READ.items():
        # A CSV file may begin with a column called PARENT or ORCHARD, and has no zero bytes.
        if content.startswith(magic) and (b"\0" in content or not magic.isalnum()):
            raise unreadable(name, f"it is {what}")
    if content[:200].lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(MARKUP):
        raise unreadable(name, "it is a page or XML; save the table as CSV or .xlsx")
    if content.startswith(b"PAR1") and b"\0" in content:
        return PARQUET
    if not content.startswith(ZIP):
        return CSV
    try:
        parts = files.open_zip(content).namelist()
    except Exception as error:  # zipfile documents no closed list
        raise unreadable(
            name, f"it is a zip file or workbook, and damaged: {str(error)[:100]}"
        ) from error
    found = next((what for part, what in PARTS.items() if part in parts), None)
    if found is None and any(part.endswith(BOOK) for part in parts):
        return WORKBOOK
    raise unreadable(name, f"it is {found or 'a zip file; unpack it'}")

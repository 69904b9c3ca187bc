"""The layout of a CSV file: its encoding and its separator, as told or as found by trying."""

import csv
import io
import re
from dataclasses import replace
from typing import NamedTuple

from bilevel_cli.data.table.dialect import Dialect
from bilevel_cli.data.table.name import Name, twice, unreadable

UTF8 = ("utf-8", "utf8", "utf_8", "utf-8-sig")
SEPARATORS = ",;\t|"
BYTE_ORDER = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32"}
BYTE_ORDER |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# The first that reads the file is proposed, with a word of it, by which the user can judge.
ENCODINGS = ("utf-8", "cp1252", "shift_jis", "gb18030", "latin-1")
# A word with a letter beyond ASCII.
WORD = re.compile(r"[^\s,;|\"']*[^\x00-\x7f][^\s,;|\"']*")


class Layout(NamedTuple):
    """A CSV file whose fields can be told apart.

    Attributes:
        content: Of the file, in UTF-8.
        dialect: With the encoding and the separator that read it.
        header: The names of its columns.
        rows: The number of rows below the header.
        findings: Why the dialect is another than the one that was asked for; empty if it is not.
    """

    content: bytes
    dialect: Dialect
    header: list[str]
    rows: int
    findings: list[str]

    @property
    def plain(self) -> bool:
        """Whether the file itself is in UTF-8."""
        return self.dialect.encoding.lower() in UTF8


def layout(content: bytes, dialect: Dialect, name: Name) -> Layout:
    """The layout of a file, by the dialect or by one that has another encoding or separator.

    Raises:
        ValueError: The file has none. The message names the line.
    """
    findings = []
    text, reason = _text(content, dialect.encoding)
    if reason:
        encoding, shown = _other_encoding(content)
        if not encoding:
            raise unreadable(name, f"{reason}; save it as UTF-8")
        findings.append(f"{reason}, but {encoding} reads {shown}")
        dialect = replace(dialect, encoding=encoding)
        text, _ = _text(content, encoding)
    if hint := re.match(r"sep=.\r?\n", text):
        raise unreadable(name, f"line 1 is {hint[0].strip()!r}, a note of Excel's; remove it")
    read, reason = _rows(text, dialect.separator)
    if reason:
        separator, other = _other_separator(text, dialect.separator)
        if other is None:
            if reason.startswith("it has one column"):
                reason += (
                    f"; set {name.spell('separator', '...')} if its fields are apart otherwise"
                )
            raise unreadable(name, "; ".join([*findings, reason]))
        findings.append(f"{reason}, but {separator!r} reads {len(other[0])} columns")
        dialect, read = replace(dialect, separator=separator), other
    assert read is not None
    found = Layout(content, dialect, *read, findings)
    return found if found.plain else found._replace(content=text.encode())


def _text(content: bytes, encoding: str) -> tuple[str, str]:
    """The content as a text, or why it is none in this encoding."""
    try:
        text = content.decode("utf-8-sig" if encoding.lower() in UTF8 else encoding)
    except UnicodeError as error:
        place = getattr(error, "start", 0)
        return "", f"line {_line(content, place)} is not {encoding.upper()}"
    if (place := text.find("\0")) >= 0:
        return "", f"line {text.count(chr(10), 0, place) + 1} holds a NUL byte"
    return text.removeprefix("\ufeff"), ""


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _other_encoding(content: bytes) -> tuple[str, str]:
    """An encoding that reads the file, and a word that shows how; or two empty texts."""
    marked = next((name for mark, name in BYTE_ORDER.items() if content.startswith(mark)), None)
    zeros = content[:200].count(0) * 3 > len(content[:200])
    # Without a mark, every other byte of a UTF-16 file of Latin letters is a zero.
    wide = (("utf-16-le", "utf-16-be") if content[1:2] == b"\0" else ("utf-16-be",)) * zeros
    for encoding in (marked,) if marked else (*wide, *ENCODINGS):
        text, reason = _text(content, encoding)
        if not reason:
            found = re.search(WORD, text)
            return encoding, repr(found[0] if found else text.splitlines()[0])[:40]
    return "", ""


def _other_separator(text: str, but: str) -> tuple[str, tuple[list[str], int] | None]:
    """The separator that gives most columns, with the header and the number of rows."""
    tried = ((one, _rows(text, one)) for one in SEPARATORS if one != but)
    fitting = [(one, read) for one, (read, reason) in tried if not reason]
    return max(fitting, key=lambda pair: len(pair[1][0] if pair[1] else ()), default=("", None))


def _rows(text: str, separator: str) -> tuple[tuple[list[str], int] | None, str]:
    """The header and the number of rows below it; or None, and why there is none.

    All rows have as many fields as the header, which are two or more, with different names, and
    none is the header again.
    """
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows = -1
    try:
        for fields in lines:
            if not fields:
                continue
            header = header or fields
            rows += 1
            if rows and fields == header:  # of files that were joined
                return None, f"line {lines.line_num} is the header again; remove it"
            if len(fields) != len(header):
                here = f"line {lines.line_num} has {len(fields)} fields, the header {len(header)}"
                return None, here
    except csv.Error as error:
        return None, f"line {lines.line_num}: {error}"
    if not header:
        return None, "it is empty"
    if reason := twice(header):
        return None, reason
    if len(header) == 1:
        return None, f"it has one column alone, {header[0][:60]!r}"
    return (header, rows), ""

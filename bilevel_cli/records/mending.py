"""What is left of a table whose bytes are not those that a checkpoint knows of.

The marks of a checkpoint cut a table into blocks: the header, and then each row, or some rows of a
long table. A CRC-32 goes on from that of the bytes before, so the digests of two marks tell whether
the bytes between them are whole, whatever became of the others.
"""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.table import Mark


class Mended(NamedTuple):
    """A table without its damaged rows.

    Attributes:
        position: Where it ends now, as `Table.position`.
        last: Whether the last row was among the damaged ones.
        sentence: What was dropped, and where it is kept.
    """

    position: tuple[int, int, tuple[Mark, ...]]
    last: bool
    sentence: str


def mend(path: Path, size: int, digest: int, marks: tuple[Mark, ...] = ()) -> Mended:
    """Drops the damaged rows of a table; what was there stays beside it, as x.damaged.csv.

    Where the header is damaged, no row can be read and all are dropped; so they are where an older
    checkpoint has no marks. A table from which bytes are missing keeps its rows up to there.

    Args:
        path: The file.
        size: As of `Table`; larger than 0.
        digest: Likewise.
        marks: Likewise.

    Raises:
        OSError: The file cannot be read, or the new one cannot be written.
    """
    ends = marks or ((size, digest, 0),)
    kept: list[Mark] = []
    whole = False
    with replaced(path) as partial:
        with partial.open("wb") as new:
            now = (0, 0, 0)
            for begin, end, block in _blocks(path, ends):
                whole = zlib.crc32(block, begin[1]) == end[1] and len(block) == end[0] - begin[0]
                if whole:
                    new.write(block)
                    rows = now[2] + end[2] - begin[2]
                    now = now[0] + len(block), zlib.crc32(block, now[1]), rows
                    kept.append(now)
                elif begin[0] == 0:  # the header
                    break
            new.flush()
            os.fsync(new.fileno())
        there = os.path.lexists(path)
        if there:
            os.replace(path, aside(path))
    total = ends[-1][2]
    what = f"{total - now[2]} of {total} rows are" if total else "its rows are"
    copy = f"; {aside(path).name} has what was there" if there else ""
    sentence = f"{path.name}: {what} damaged or missing, and dropped{copy}."
    return Mended((now[0], now[1], tuple(kept)), not whole, sentence)


def aside(path: Path) -> Path:
    """Where the damaged table is kept."""
    return path.with_suffix(f".damaged{path.suffix}")


def _blocks(path: Path, ends: tuple[Mark, ...]) -> list[tuple[Mark, Mark, bytes]]:
    """The two marks of each block, and the bytes between them as far as they are there."""
    begin, found, content = (0, 0, 0), [], b""
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(ends[-1][0])
    for end in ends:
        found.append((begin, end, content[begin[0] : end[0]]))
        begin = end
    return found

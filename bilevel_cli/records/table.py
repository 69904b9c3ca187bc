"""CSV files that grow a row at a time and survive a restart."""

import csv
import os
import weakref
import zlib
from io import FileIO
from pathlib import Path

Row = dict[str, float | int]  # the numbers of one row, by their columns
FIRST = b"step,"  # the first column of every table


class Table:
    """A CSV file with a fixed header: the columns of its first row, of which `step` is the first.

    Args:
        path: The file.
        size: Bytes to keep of a file that is there, as `size` was when the checkpoint was written
            from which a run continues; what follows is cut off and will be computed again.
        digest: Their CRC-32, as `digest` was then.
    """

    def __init__(self, path: Path, size: int = 0, digest: int = 0) -> None:
        self.path, self.size = path, size
        present = path.stat().st_size if path.exists() else 0
        if present < size:
            raise ValueError(
                f"{path.name} needs the {size} bytes that the checkpoint beside it knows of, got "
                f"{present}: it was cut or replaced. Restore it, or use another hydra.run.dir."
            )
        self.digest = _digest(path, size) if size else 0
        if digest != self.digest:
            raise ValueError(
                f"{path.name} needs the rows that the checkpoint beside it knows of, got other "
                f"bytes: it was edited or replaced. Restore it, or use another hydra.run.dir."
            )
        if present and not size:
            _check_first(path)
        if present > size:
            os.truncate(path, size)
        self._file: FileIO | None = None  # opened by the first row
        self._columns: list[str] | None = None
        if size:
            with path.open(newline="") as file:
                self._columns = next(csv.reader(file))

    def append(self, row: Row) -> None:
        """Adds a row and hands it to the operating system, in whole or, where that fails, not."""
        if self._columns is None:
            self._columns = list(row)
        if row.keys() != set(self._columns):
            raise ValueError(
                f"{self.path.name} needs a row with columns {', '.join(self._columns)}, got "
                f"{', '.join(row)}. Report a metric at every row or at none."
            )
        if self._file is None:
            self._file = FileIO(self.path, "ab")
            weakref.finalize(self, self._file.close)
        # By hand: csv.writer takes ten times as long for one row among outer steps.
        lines = [self._columns, [str(row[column]) for column in self._columns]]
        text = "".join(",".join(line) + "\n" for line in lines[self.size > 0 :]).encode()
        try:
            written = self._file.write(text)
            while written < len(text):  # of a full disk, a part; the rest then says why
                written += self._file.write(text[written:])
        except OSError:
            os.truncate(self.path, self.size)
            raise
        self.size += len(text)
        self.digest = zlib.crc32(text, self.digest)

    def sync(self) -> None:
        """Has the rows on disk, before a checkpoint refers to them."""
        if self.size:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def last(self) -> dict[str, float]:
        """The last row."""
        return last(self.path)


def last(path: Path) -> dict[str, float]:
    """The last row of a table, by columns; empty where it has no rows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: float(value) for column, value in rows[-1].items()} if rows else {}


def _digest(path: Path, size: int) -> int:
    """The CRC-32 of the first bytes of a file: it finds accidents, not forgeries."""
    digest = 0
    with path.open("rb") as file:
        while size and (part := file.read(min(size, 1 << 20))):
            digest, size = zlib.crc32(part, digest), size - len(part)
    return digest


def _check_first(path: Path) -> None:
    """Raises ValueError where a file that no checkpoint knows was not begun by a run."""
    with path.open("rb") as file:
        first = file.read(len(FIRST))
    # A crash may have cut it, or left zeros that a file system had not filled yet.
    if not FIRST.startswith(first.rstrip(b"\0")):
        raise ValueError(
            f"A run needs {path} for itself, got a file that is not of a run. "
            "Use another hydra.run.dir."
        )

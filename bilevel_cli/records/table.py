"""CSV files that grow a row at a time and survive a restart."""

import csv
import os
import weakref
import zlib
from io import FileIO
from itertools import pairwise
from pathlib import Path

from bilevel_cli.errors import Removed, Unwritten
from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.vocabulary import FAILED

Row = dict[str, float | int]  # the numbers of one row, by their columns
FIRST = b"step,"  # the first column of every table
Mark = tuple[int, int, int]  # bytes up to the end of a line, their CRC-32, and the rows in them
MARKS = 256  # at most, of a table; beyond, every other one is kept


class Table:
    """A CSV file with a fixed header: the columns of its first row, of which `step` is the first.

    It has one writer. Where file systems have no locks nothing keeps another one out, so a row is
    added only where the file is as this writer left it.

    Args:
        path: The file.
        size: Bytes to keep of a file that is there, as in the `position` of the checkpoint from
            which a run continues; what follows is cut off and will be computed again.
        digest: Their CRC-32, likewise.
        marks: Likewise. They tell a damaged row from the others; older checkpoints have none.

    Attributes:
        size: Bytes of the file.
        digest: Their CRC-32.
        rows: How many there are, as far as marks tell.
    """

    def __init__(
        self, path: Path, size: int = 0, digest: int = 0, marks: tuple[Mark, ...] = ()
    ) -> None:
        self.path, self.size = path, size
        if reason := damage(path, size, digest):
            raise ValueError(
                f"{path.name} needs {reason}. Restore it, or use another hydra.run.dir; "
                "resume=force drops the damaged rows and goes on."
            )
        self.digest = digest
        self._marks, self.rows = list(marks[:-1]), marks[-1][2] if marks else 0
        gaps = [later[2] - mark[2] for mark, later in pairwise(self._marks[:2])]
        self._stride = max([1, *gaps])  # rows from one mark to the next
        present = path.stat().st_size if path.exists() else 0
        if present and not size:
            _check_first(path)
        if present > size:
            os.truncate(path, size)
        self._file: FileIO | None = None  # opened by the first row
        self._identity = (0, 0)  # device and inode of the open file
        self._columns: list[str] | None = None
        if size:
            with path.open(newline="") as file:
                self._columns = next(csv.reader(file))

    @property
    def position(self) -> tuple[int, int, tuple[Mark, ...]]:
        """Size, digest and marks, for the checkpoint from which a run continues."""
        return self.size, self.digest, (*self._marks, (self.size, self.digest, self.rows))

    def append(self, row: Row) -> None:
        """Adds a row and hands it to the operating system, in whole or, where that fails, not.

        Raises:
            Unwritten: The file is not as it was left: another run or program wrote to it or
                replaced it.
            Removed: It is not there.
            OSError: The system refuses the row.
        """
        if self._columns is None:
            self._columns = list(row)
        if row.keys() != set(self._columns):
            raise ValueError(
                f"{self.path.name} needs a row with columns {', '.join(self._columns)}, got "
                f"{', '.join(row)}. Report a metric at every row or at none."
            )
        if self._file is None:
            self._file = FileIO(self.path, "ab", opener=_opened)
            weakref.finalize(self, self._file.close)
            status = os.fstat(self._file.fileno())
            self._identity = status.st_dev, status.st_ino
        self._check_mine()
        # By hand: csv.writer takes ten times as long for one row among outer steps.
        lines = [self._columns, [str(row[column]) for column in self._columns]]
        texts = [(",".join(line) + "\n").encode() for line in lines[self.size > 0 :]]
        text = b"".join(texts)
        try:
            written = self._file.write(text)
            while written < len(text):  # of a full disk, a part; the rest then says why
                written += self._file.write(text[written:])
        except OSError:
            os.truncate(self.path, self.size)
            raise
        if (end := self._file.tell()) != self.size + len(text):  # another one was a moment faster
            if os.fstat(self._file.fileno()).st_size == end:
                os.truncate(self._file.fileno(), end - len(text))
            raise self._not_mine("another run or program wrote to it")
        for line in texts:
            self._add(line)

    def _add(self, line: bytes) -> None:
        """Counts a line that was written: the header or a row."""
        if self.size and self.rows % self._stride == 0:
            self._marks += [(self.size, self.digest, self.rows)]
            if self.rows >= MARKS * self._stride:
                self._marks, self._stride = self._marks[::2], 2 * self._stride
        self.rows += self.size > 0
        self.size += len(line)
        self.digest = zlib.crc32(line, self.digest)

    def _check_mine(self) -> None:
        """As logging's WatchedFileHandler looks, before each record, whether a file was moved."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            there = self.path.parent.is_dir()
            raise Removed(str(self.path if there else self.path.parent), FAILED) from None
        if (status.st_dev, status.st_ino) != self._identity:
            raise self._not_mine("it was replaced")
        if status.st_size != self.size:
            raise self._not_mine("another run or program wrote to it")

    def _not_mine(self, what: str) -> Unwritten:
        return Unwritten(
            f"A run needs {self.path} for itself, got a file that is not as the run left it: "
            f"{what}. Let one run alone write there; from its checkpoint the same command goes on.",
            FAILED,
        )

    def sync(self) -> None:
        """Has the rows on disk, before a checkpoint refers to them.

        Raises:
            Unwritten: As `append`, and Removed likewise.
        """
        if self._file is not None:
            self._check_mine()
            os.fsync(self._file.fileno())

    def last(self) -> dict[str, float]:
        """The last row."""
        return last(self.path)


def last(path: Path) -> dict[str, float]:
    """The last row of a table, by columns; empty where it has no rows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: float(value) for column, value in rows[-1].items()} if rows else {}


def damage(path: Path, size: int, digest: int) -> str | None:
    """What a table lacks of the rows that a checkpoint knows of; None where it has them all.

    Args:
        path: The file.
        size: Their bytes.
        digest: Their CRC-32.
    """
    present = path.stat().st_size if path.exists() else 0
    if present < size:
        return (
            f"the {size} bytes that the checkpoint beside it knows of, got {present}: it was cut "
            "or replaced"
        )
    if size and digest != _digest(path, size):
        return (
            "the rows that the checkpoint beside it knows of, got other bytes: it was edited or "
            "replaced"
        )
    return None


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | CAREFUL, 0o666)


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

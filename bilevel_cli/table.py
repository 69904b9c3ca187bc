"""CSV files that grow a row at a time and survive a restart."""

import csv
import os
import weakref
from pathlib import Path
from typing import BinaryIO


class Table:
    """A CSV file with a fixed header: the columns of its first row.

    Args:
        path: The file.
        size: Bytes to keep of a file that is there, as `size` was when the checkpoint was written
            from which a run continues; what follows is cut off and will be computed again.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        present = path.stat().st_size if path.exists() else 0
        if present < size:
            raise ValueError(
                f"{path.name} needs the {size} bytes that the checkpoint beside it knows of, got "
                f"{present}: it was cut or replaced. Restore it, or use another hydra.run.dir."
            )
        if present:
            os.truncate(path, size)
        self._file: BinaryIO | None = None  # opened by the first row
        self._columns: list[str] | None = None
        if size:
            with path.open(newline="") as file:
                self._columns = next(csv.reader(file))

    def append(self, row: dict[str, float | int]) -> None:
        """Adds a row and hands it to the operating system."""
        header = self._columns is None
        if self._columns is None:
            self._columns = list(row)
        if row.keys() != set(self._columns):
            raise ValueError(
                f"{self.path.name} needs a row with columns {', '.join(self._columns)}, got "
                f"{', '.join(row)}. Report a metric at every row or at none."
            )
        if self._file is None:
            self._file = self.path.open("ab")
            weakref.finalize(self, self._file.close)
        # By hand: csv.writer takes ten times as long for one row among outer steps.
        lines = [self._columns, [str(row[column]) for column in self._columns]]
        text = "".join(",".join(line) + "\n" for line in lines[not header :])
        self.size += self._file.write(text.encode())
        self._file.flush()

    def sync(self) -> None:
        """Has the rows on disk, before a checkpoint refers to them."""
        if self.size:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def last(self) -> dict[str, float]:
        """The last row."""
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {column: float(value) for column, value in rows[-1].items()}

"""What a section is given, what it tells of one item, and the files in between."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PASSED, FAILED, REFUSED, NOT_SHOWN = "passed", "failed", "refused", "not shown"
Figure = float | int | str | bool | None


@dataclass(frozen=True)
class Given:
    """What the command was given.

    Attributes:
        out: The folder for all that is written.
        simulated: Whether the device is a simulated one.
        tasks: The tasks of the pairs; all if there are none.
        methods: Likewise their methods.
        jobs: How many processes may run at once.
    """

    out: Path
    simulated: bool
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    jobs: int = 1

    @property
    def details(self) -> Path:
        """The folder for all but the page and the JSON."""
        return self.out / "details"

    def folder(self, *names: str) -> Path:
        """A folder for the files of a section, made if need be."""
        path = self.details.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def ledger(self, section: str, items: Sequence[str]) -> "Ledger":
        """Of the rows of a section."""
        return Ledger(self.folder("rows", section), list(items))


@dataclass(frozen=True)
class Row:
    """What was found of one item.

    Attributes:
        item: Its name.
        state: "passed", "failed", "refused" where the project says that it cannot be had, or "not
            shown" where a simulated device says nothing of it.
        told: What there is to say, in a line.
        figures: What was measured, by name.
    """

    item: str
    state: str
    told: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


class Ledger:
    """The rows of a section, a file for each item, that several processes write at once.

    Args:
        folder: Where the files are.
        items: The items, in the order in which they are tried.
    """

    def __init__(self, folder: Path, items: list[str]) -> None:
        self.folder, self.items = folder, items

    def claim(self) -> str | None:
        """The next item, for the process that asks; None where all are taken."""
        for number, item in enumerate(self.items):
            try:
                os.close(os.open(self._claimed(number), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return item
        return None

    def write(self, row: Row) -> None:
        """Keeps a row."""
        path = self._written(self.items.index(row.item))
        path.with_suffix(".partial").write_text(json.dumps(asdict(row)))
        path.with_suffix(".partial").replace(path)  # whole or not at all

    def rows(self) -> list[Row]:
        """The rows so far, in the order of the items."""
        paths = map(self._written, range(len(self.items)))
        return [Row(**json.loads(path.read_text())) for path in paths if path.exists()]

    def begun(self) -> list[str]:
        """Items that were claimed and have no row."""
        return [
            item
            for number, item in enumerate(self.items)
            if self._claimed(number).exists() and not self._written(number).exists()
        ]

    def claims(self) -> int:
        """How many items have been claimed."""
        return sum(self._claimed(number).exists() for number in range(len(self.items)))

    def _claimed(self, number: int) -> Path:
        return self.folder / f"{number}.claimed"

    def _written(self, number: int) -> Path:
        return self.folder / f"{number}.json"

"""The rows that a run reports: brought to the host, written, and copied to loggers."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel_cli.core.host import is_host
from bilevel_cli.errors import UsageError, hint
from bilevel_cli.loggers.base import Loggers
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.records.mending import mend
from bilevel_cli.records.table import Mark, Row, Table, damage
from bilevel_cli.vocabulary import EVAL, TRAIN

log = logging.getLogger(__name__)

# Where each table ends, as a checkpoint has it: size and digest and, but for older ones, marks.
Positions = dict[str, tuple[int, int] | tuple[int, int, tuple[Mark, ...]]]
NEW: Positions = {"train": (0, 0), "eval": (0, 0)}
FILES = {"train": TRAIN, "eval": EVAL}
WHEN = ("step", "seconds")  # the columns of eval.csv that are no scores


class Rows:
    """train.csv and eval.csv, and the loggers that get the same rows.

    Args:
        folder: Of the run.
        writes: Whether this process writes. One that leaves it to another process counts the rows
            and touches no file.

    Attributes:
        train: The table of outer steps, in a process that writes.
        evals: The table of scores, likewise.
        count: The rows of each table that were written since it was opened, here or elsewhere.
        loggers: Told of every row.
        objective: The score that a sweeper is to be told; None for none.
        lost: Whether the last row of eval.csv was damaged, and dropped.
    """

    train: Table
    evals: Table

    def __init__(self, folder: Path, writes: bool) -> None:
        self.folder, self.writes = folder, writes
        self.count = dict.fromkeys(NEW, 0)
        self.loggers = Loggers({})
        self.objective: str | None = None
        self._kept = NEW
        self.lost = False

    def resume(self, positions: Positions, force: bool, ranks: Ranks) -> bool:
        """Opens the tables, and drops their damaged rows if that is wanted.

        Args:
            positions: As of `open`.
            force: Whether it is.
            ranks: The processes that share the run.

        Returns:
            Whether rows were dropped, so that a checkpoint is due.

        Raises:
            ValueError: As `open`.
        """
        if not force:
            self.open(positions)
            return False
        found = ranks.once(lambda: self._mended(positions))
        self.open(found["positions"])
        self.lost = found["lost"]
        return bool(found["damaged"])

    def open(self, positions: Positions) -> None:
        """Opens the tables where a checkpoint left them; the rows that follow are cut off.

        Raises:
            ValueError: A table lacks rows that the checkpoint knows of, or has other ones.
        """
        self._kept, self.count = positions, dict.fromkeys(NEW, 0)
        if self.writes:
            self.train, self.evals = (
                Table(self.folder / FILES[name], *positions[name]) for name in ("train", "eval")
            )

    @property
    def scored(self) -> bool:
        """Whether eval.csv has a row."""
        return self._kept["eval"][0] > 0 or self.count["eval"] > 0

    def write(self, name: str, row: Row) -> None:
        """Adds a row to the table called "train" or "eval", and hands it to the loggers.

        Raises:
            UsageError: The row of scores does not have the objective.
        """
        if name == "eval":
            self.check_objective(row)
        if self.writes:
            self._tables()[name].append(row)
        self.count[name] += 1
        self.loggers.write(name, row)

    def check_objective(self, row: Row) -> None:
        """Refuses an objective that a row of eval.csv does not have: no later one would.

        Raises:
            UsageError: It does not.
        """
        scores = [column for column in row if column not in WHEN]
        if self.objective is not None and self.objective not in scores:
            raise UsageError(
                f"objective needs one of {', '.join(scores)}, got {self.objective}"
                f"{hint(self.objective, scores)}"
            )

    def last_scores(self) -> Row:
        """The last scores; none in a process that does not write."""
        last = self.evals.last() if self.writes else {}
        return {name: value for name, value in last.items() if name not in WHEN}

    def synced(self) -> Positions:
        """The positions of the tables, once their rows are on disk; of a process that writes."""
        for table in self._tables().values():
            table.sync()
        return {name: table.position for name, table in self._tables().items()}

    def _mended(self, positions: Positions) -> dict[str, Any]:
        """Where the tables end without their damaged rows, and what was dropped."""
        found, lost, damaged = dict(positions), False, False
        for name, position in positions.items():
            path = self.folder / FILES[name]
            if damage(path, *position[:2]) is None:
                continue
            mended = mend(path, *position)
            log.warning("%s The run goes on, since resume=force.", mended.sentence)
            found[name], damaged = mended.position, True
            lost |= name == "eval" and mended.last
        return {"positions": found, "lost": lost, "damaged": damaged}

    def _tables(self) -> dict[str, Table]:
        return {"train": self.train, "eval": self.evals}


def read(values: dict[str, Any]) -> Row:
    """Brings 0-dim tensors to the host, those of a GPU in one transfer.

    Args:
        values: 0-dim tensors and numbers, by the names of their columns.
    """
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    away = {name: value.double() for name, value in tensors.items() if not is_host(value.device)}
    if away:
        fetched = torch.stack(list(away.values())).cpu()
        away = dict(zip(away, fetched, strict=True))
    found = {n: _shortest(away.get(n, v).item(), v.dtype) for n, v in tensors.items()}
    return {n: found[n] if isinstance(value, Tensor) else value for n, value in values.items()}


def _shortest(number: float, dtype: torch.dtype) -> float | int:
    """The number whose decimal form is the shortest that identifies it in its own precision."""
    if not dtype.is_floating_point:
        return int(number)
    return float(str(np.float32(number))) if dtype == torch.float32 else number

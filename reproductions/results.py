"""What the runs of an item left behind, as numbers."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Results:
    """The folder of an item. What was not run is an empty table, or NaN.

    Args:
        folder: It has a folder for each run, and the tables of its numeric experiments.
    """

    folder: Path

    def manifest(self, run: str) -> dict[str, Any]:
        path = self.folder / run / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def train(self, run: str) -> pd.DataFrame:
        return _read(self.folder / run / "train.csv", "step")

    def scores(self, run: str) -> pd.DataFrame:
        return _read(self.folder / run / "eval.csv", "step")

    def table(self, name: str) -> pd.DataFrame:
        """A table that the item's `measure` wrote, by its first column."""
        return _read(self.folder / f"{name}.csv", None)

    def last(self, run: str, column: str) -> float:
        """The last score of a run that was completed; infinite if it diverged."""
        status = self.manifest(run).get("status")
        if status == "diverged":
            return math.inf
        return float(self.scores(run)[column].iloc[-1]) if status == "completed" else math.nan

    def mean(self, runs: list[str], column: str) -> float:
        return sum(self.last(run, column) for run in runs) / len(runs)

    def cell(self, table: str, row: Any, column: str) -> float:
        """A number of a table that the item's `measure` wrote."""
        found = self.table(table)
        return float(found[column].get(row, math.nan)) if column in found else math.nan

    def present(self, runs: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        """Those runs that have scores, and these."""
        for run in runs:
            if len(scores := self.scores(run)):
                yield run, scores


def spread(numbers: Sequence[float]) -> str:
    """Mean and standard deviation of some runs, as a table shows them."""
    if not len(numbers) or any(map(math.isnan, numbers)):
        return "-"
    if lost := sum(map(math.isinf, numbers)):
        return f"{lost} of {len(numbers)} diverged"
    return f"{np.mean(numbers):.1f} ± {np.std(numbers, ddof=1):.1f}"


def _read(path: Path, index: str | None) -> pd.DataFrame:
    return pd.read_csv(path, index_col=index or 0) if path.exists() else pd.DataFrame()

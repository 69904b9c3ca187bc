"""Sweeps of small runs, in this process."""

import json
from pathlib import Path
from typing import Any

SMALL = ("-m", "task=quadratic", "device=cpu", "task.inner_dim=3", "inner_steps=3")


def notes(sweep: Path) -> dict[str, Any]:
    """What job.json says, by the names of the folders."""
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/job.json")}


def steps(sweep: Path) -> dict[str, list[int]]:
    """The outer steps of the rows of train.csv, by the names of the folders."""
    found = {}
    for path in sweep.glob("*/train.csv"):
        rows = path.read_text().splitlines()[1:]
        found[path.parent.name] = [int(row.partition(",")[0]) for row in rows]
    return found

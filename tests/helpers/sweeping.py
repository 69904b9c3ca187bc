"""Sweeps of small runs, in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from bilevel_cli.runs import entry

SMALL = ("-m", "task=quadratic", "device=cpu", "task.inner_dim=3", "inner_steps=3")


def of_each_run(
    monkeypatch: pytest.MonkeyPatch, noted: Callable[[DictConfig, Path], Any]
) -> list[Any]:
    """What is noted of each experiment that is run from now on."""
    found = []
    real = entry.run

    def run(config: DictConfig, directory: Path, *given: Any) -> float | None:
        found.append(noted(config, directory))
        return real(config, directory, *given)

    monkeypatch.setattr(entry, "run", run)
    return found


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

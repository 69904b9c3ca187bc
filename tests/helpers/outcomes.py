"""Runs by several processes: how they ended, and whether they found the same."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ranking import Command

from bilevel_cli.runs import checkpoint
from bilevel_cli.vocabulary import CHECKPOINT

TIMINGS = ["seconds", "peak_memory_mb"]


def run(commands: list[Command]) -> list[dict[str, Any]]:
    script = [sys.executable, str(Path(__file__).with_name("ranking.py"))]
    given = json.dumps([asdict(command) for command in commands])
    done = subprocess.run([*script, given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def learned(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder / CHECKPOINT)
    carried = {f"carry {n}": x for n, x in state["carry"]["inner"]["inner"].items()}
    return {**state["outer"], **carried}


def check_alike(one: Path, other: Path, tolerance: float) -> None:
    """Compares what two runs wrote and learned; to the bit where the tolerance is 0."""
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    for name in ("train.csv", "eval.csv"):
        left, right = (
            pd.read_csv(folder / name).drop(columns=TIMINGS, errors="ignore")
            for folder in (one, other)
        )
        pd.testing.assert_frame_equal(left, right, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(learned(other), learned(one), rtol=tolerance, atol=tolerance)

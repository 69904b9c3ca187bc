"""Runs of bilevel-run in processes of their own, and what they leave."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.verify.rows import Given
from benchmarks.verify.simulation import ROOT
from bilevel_cli.runs import checkpoint
from bilevel_cli.vocabulary import CHECKPOINT

MACHINE = ("seconds", "peak_memory_mb")  # columns that measure the machine
# Parts of a checkpoint that have seconds in them, or say where a run was.
MEASURED = ("seconds", "tables", "settings", "origin")


class Ended(Exception):
    """A run ended otherwise than it should have."""


def start(given: Given, folder: Path, overrides: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a run, or goes on with the one in the folder."""
    module = "benchmarks.verify.command" if given.simulated else "bilevel_cli"
    command = [sys.executable, "-m", module, *overrides, f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> None:
    """Waits for a run.

    Raises:
        Ended: Its exit code is another than `code`.
    """
    _, words = process.communicate()
    if process.returncode != code:
        last = (words.strip().splitlines() or ["it said nothing"])[-1]
        raise Ended(f"exit code {process.returncode} instead of {code}: {last[:250]}")


def stop(process: subprocess.Popen[str], folder: Path, rows: int, signum: signal.Signals) -> None:
    """Sends a run a signal as soon as train.csv has so many rows, and waits for it.

    Raises:
        Ended: The run was over before, or ended otherwise.
    """
    table = folder / "train.csv"
    while not table.exists() or table.read_text().count("\n") <= rows:  # one is the header
        if process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signum)
    # A run that obeys has saved its last step, and says so by its exit code.
    finish(process, -signum if signum == signal.SIGKILL else 128 + signum)


def differences(one: Path, other: Path) -> list[str]:
    """In what two runs differ: rows that are not the same text, tensors of other bits.

    Columns that measure the machine are left out.
    """
    found = []
    for name in ("train.csv", "eval.csv"):
        if (ours := _rows(one / name)) != (others := _rows(other / name)):
            pairs = enumerate(zip(ours, others, strict=False), 1)
            where = next((f"row {n}" for n, (a, b) in pairs if a != b), "the number of rows")
            found.append(f"{name}, {where}")
    saved, again = (checkpoint.load(folder / CHECKPOINT) for folder in (one, other))
    parts = [name for name in saved if name not in MEASURED]
    return found + [f"{name} in the checkpoint" for name in parts if not same(saved, again, name)]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [
            {name: text for name, text in row.items() if name not in MACHINE}
            for row in csv.DictReader(file)
        ]


def same(one: Any, other: Any, name: Any) -> bool:
    """Whether two nested lists or dicts have the same numbers at `name`, bit for bit."""
    ours, others = one[name], other[name]
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, others)
    if isinstance(ours, dict):
        return ours.keys() == others.keys() and all(same(ours, others, key) for key in ours)
    if isinstance(ours, list | tuple):
        alike = len(ours) == len(others)
        return alike and all(same(ours, others, number) for number in range(len(ours)))
    return bool(ours == others)

"""The rows of the benchmark that are for a GPU: time against the peers, and memory."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from benchmarks import machine, memory, report, timing
from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, Figure, Given, Row
from benchmarks.workloads import cases

TITLE = "The benchmark on this GPU"
ABOUT = """Seconds of one hypergradient in the size "full", ours against plain autograd and the
peers that are installed, in turns, and memory. All tables are in `benchmarks.md` in
`details/benchmarks`. `python -m benchmarks report --gpu FOLDER` takes the rows for a GPU from the
CSV files in that folder."""
ORDER = 7
SECONDS = 120.0
ALONE = True
HARDWARE = True
MACHINE, MEMORY = "copy and matrix product", "memory of hyper-cleaning"
ROUNDS, ROUND_SECONDS = 5, 6.0
STEPS = 1000  # inner steps of the row of memory
OF_THE_MACHINE = ("cores", "threads", "copy_gb_per_s", "matmul_gflop_per_s")


def items(given: Given) -> Sequence[str]:
    names = list(cases(_size(given), []))
    # The targets first: time may not suffice for all.
    patterns = [pattern for _, pattern, _, _ in report.ON_GPU]
    targets = [name for name in names if any(re.fullmatch(p, name) for p in patterns)]
    others = [name for name in names if name not in targets]
    return [MACHINE, *targets, MEMORY, *others]


def check(given: Given, item: str) -> Row:
    folder = given.folder("benchmarks")
    if given.simulated and item in (MACHINE, MEMORY):
        return Row(item, NOT_SHOWN, "A simulated device has no speed and no memory of its own.")
    if item == MACHINE:
        machine.describe(folder, torch.device("cuda"), _size(given))
        found = pd.read_csv(folder / "machine.csv").iloc[-1]
        row = Row(item, PASSED, "", {name: float(found[name]) for name in OF_THE_MACHINE})
    elif item == MEMORY:
        row = _memory(folder / "memory.csv", _size(given))
    else:
        make = cases(_size(given), ["device=cuda"])[item]
        rounds = 1 if given.simulated else ROUNDS
        timing.time_case(folder / "time.csv", item, make(), rounds, ROUND_SECONDS)
        row = compared(item, pd.read_csv(folder / "time.csv"))
    if not given.simulated:
        report.write(folder, folder / "benchmarks.md")
    return row


def compared(item: str, times: pd.DataFrame) -> Row:
    """The row of a case, of the table of all times."""
    rows = times[times.case == item]
    seconds = rows.groupby("implementation", sort=False).wall.median()
    error = float(rows[rows.implementation == "ours"].error.iloc[0])
    best = report.best(times, item)
    figures: dict[str, Figure] = {"ours, seconds": float(seconds["ours"]), "error": error}
    if best:
        ratio, peer, _ = best
        figures |= {"best peer": peer, "its seconds": float(seconds[peer]), "ours / peer": ratio}
    right = error <= report.tolerance(rows)
    return Row(item, PASSED if right else FAILED, "" if right else "The error is large.", figures)


def _memory(path: Path, size: str) -> Row:
    """The peaks of plain autograd and of ours within a budget, each in a fresh process."""
    figures: dict[str, Figure] = {}
    for who, budget in (("plain autograd", "auto"), ("ours", str(memory.SMALL))):
        peak = memory.fresh(path, size, "cuda", "linear", who, STEPS, budget)
        figures[f"{who}, MB"] = peak
    told = "" if None not in figures.values() else "One of them did not come to its end."
    return Row(MEMORY, FAILED if told else PASSED, told, figures)


def _size(given: Given) -> str:
    return "tiny" if given.simulated else "full"


def summary(rows: Sequence[Row]) -> str:
    return ""

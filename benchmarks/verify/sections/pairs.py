"""Every pair of a task and a method, on the GPU and on the CPU."""

import logging
import random
import warnings
from collections import Counter
from collections.abc import Sequence

import torch
from pairs import check as checked
from pairs import pairs

from benchmarks.verify.rows import FAILED, PASSED, REFUSED, Figure, Given, Row

TITLE = "Pairs of a task and a method"
ABOUT = """Estimates in float64 from the inputs of the CPU are the CPU's; a whole outer step waits
for nothing; a CUDA graph of it gives the eager estimates; a short run comes to its end. A pair that
the CPU refuses as well is refused. Pairs that failed are listed; the JSON has all."""
ORDER = 1
SECONDS = 320.0
ALONE = False
HARDWARE = False
BY = " x "


def items(given: Given) -> Sequence[str]:
    known = [
        f"{task}{BY}{method}"
        for task, method in pairs()
        if task in (given.tasks or [task]) and method in (given.methods or [method])
    ]
    random.Random(0).shuffle(known)  # where time is short, some of every task and method is there
    return known


def check(given: Given, item: str) -> Row:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    task, _, method = item.partition(BY)
    found = checked(task, method)
    figures: dict[str, Figure] = {
        "gap": found.gap,
        "graph's gap": found.graph_gap,
        "wait": found.wait,
        "no graph": found.no_graph,
    }
    if found.faults:
        return Row(item, FAILED, "; ".join(found.faults), figures)
    if found.refused:
        return Row(item, REFUSED, found.refused)
    return Row(item, PASSED, "", figures)


def summary(rows: Sequence[Row]) -> str:
    counts = Counter(row.state for row in rows)
    gaps = {row.item: gap for row in rows if isinstance(gap := row.figures.get("gap"), float)}
    largest = max(gaps, key=lambda item: gaps[item], default=None)
    waits = sum(bool(row.figures.get("wait")) for row in rows)
    told = [
        f"{len(rows)} pairs: {counts[PASSED]} served, {counts[REFUSED]} refused, "
        f"{counts[FAILED]} failed; {waits} wait."
    ]
    if largest is not None:
        told.append(f"Largest gap {gaps[largest]:.1e} ({largest}).")
    return " ".join(told)

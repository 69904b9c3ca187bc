"""A hypergradient whose graphs exceed device.memory_budget stays within it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.case import Case
from benchmarks.verify.rows import FAILED, PASSED, Given, Row
from benchmarks.workloads import cleaning, distillation

TITLE = "Memory budget"
ABOUT = """Reverse mode through many steps, by the peak of `torch.cuda.max_memory_allocated` above
what was held before. A budget of one byte holds the graph of one step at a time. So a budget of B
may take B more than that; and without a bound the graphs take more than B, or there is nothing to
see."""
ORDER = 5
SECONDS = 120.0
ALONE = False
HARDWARE = True
SHARE = 6  # the budget is this part of what all graphs take
WHOLE, LEAST = "1 TB", "1"


def problems(size: str) -> dict[str, Callable[[list[str]], Case]]:
    steps = {"full": 100, "tiny": 12}[size]
    few = {"full": 20, "tiny": 6}[size]
    return {
        f"hyper-cleaning, {steps} steps": partial(cleaning.linear, size, steps, cleaning.UNROLLED),
        f"distillation, {few} steps": partial(
            distillation.build, *distillation.SIZES[size][:2], few
        ),
    }


def items(given: Given) -> Sequence[str]:
    return list(problems(_size(given)))


def check(given: Given, item: str) -> Row:
    make = problems(_size(given))[item]
    whole, least = peak(make, WHOLE), peak(make, LEAST)
    budget = max(1, (whole - least) // SHARE)
    return judged(item, whole, least, budget, peak(make, str(budget)))


def judged(item: str, whole: int, least: int, budget: int, peak: int) -> Row:
    """The row of the peaks, in bytes: without a bound, of one step's graph, and within a budget."""
    figures = {
        "all graphs, MB": whole / 1e6,
        "the graph of one step, MB": least / 1e6,
        "budget, MB": budget / 1e6,
        "within the budget, MB": peak / 1e6,
    }
    if whole <= least + budget:
        return Row(item, FAILED, "The graphs do not exceed the budget: nothing is shown.", figures)
    if peak > least + budget:
        return Row(item, FAILED, "It took more than the budget and one step.", figures)
    return Row(item, PASSED, "", figures)


def peak(make: Callable[[list[str]], Case], budget: str) -> int:
    """The peak above what was held just before, in bytes, of a hypergradient within a budget."""
    case = make(["device=cuda", f"device.memory_budget={budget}"])
    case.ours()  # libraries take their workspaces, and the graph of a step is measured
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.ours()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _size(given: Given) -> str:
    return "tiny" if given.simulated else "full"


def summary(rows: Sequence[Row]) -> str:
    return ""

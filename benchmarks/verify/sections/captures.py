"""Seconds of an outer step: eager, as a CUDA graph, and compiled."""

import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks import timing
from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, Given, Row
from benchmarks.workloads import cases

TITLE = "Eager, graph, compiled"
ABOUT = """Seconds of one estimate of the hypergradient by `device.capture`, medians, on problems of
the benchmark in the size "quick", in float32; and the relative error against float64, which has to
be that of the eager estimate. The preparation is the first call: kernels are chosen, a graph is
recorded, or the step is compiled."""
ORDER = 6
SECONDS = 110.0
ALONE = True
HARDWARE = True
PROBLEMS = (
    "cleaning linear, unrolled",
    "cleaning MLP, Neumann",
    "penalties, unrolled",
    "maml 5-way",
)
HOW = {"eager": "null", "graph": "cuda_graph", "compiled": "compile"}
WRONG = 1e-2  # as in the page of the benchmark
ENOUGH = 1.5  # seconds of measuring


def items(given: Given) -> Sequence[str]:
    # Compiling takes longest and comes last: where time is short, the others have been measured.
    return [f"{problem}, {how}" for how in HOW for problem in PROBLEMS]


def check(given: Given, item: str) -> Row:
    problem, _, how = item.rpartition(", ")
    if given.simulated and how == "compiled":
        return Row(item, NOT_SHOWN, "A simulated device has nothing to compile for.")
    size = "tiny" if given.simulated else "quick"
    known = cases(size, ["device=cuda", f"device.capture={HOW[how]}"])
    case = next(make for name, make in known.items() if name.startswith(problem))()
    device = torch.device("cuda")
    since = time.perf_counter()
    found = case.ours()
    torch.cuda.synchronize()
    preparation = time.perf_counter() - since
    error = timing.error(found, timing.plain_hypergradient(case))
    seconds: list[float] = []
    while len(seconds) < 5 or (sum(seconds) < ENOUGH and len(seconds) < 200):
        seconds.append(timing.measure(case.ours, device)[0])
    figures = {"seconds": statistics.median(seconds), "preparation": preparation}
    figures |= {"inner steps": case.steps, "error": error}
    wrong = "The numbers are wrong." if not error < WRONG else ""
    return Row(item, FAILED if wrong else PASSED, wrong, figures)


def summary(rows: Sequence[Row]) -> str:
    """How many times faster than eager, for each problem."""
    seconds = {row.item: float(str(row.figures["seconds"])) for row in rows if row.figures}
    told = []
    for problem in PROBLEMS:
        eager = seconds.get(f"{problem}, eager")
        for how in HOW:
            other = seconds.get(f"{problem}, {how}")
            if eager and other and how != "eager":
                told.append(f"{problem}: {how} {eager / other:.2f} times as fast as eager")
    return "; ".join(told) + "." if told else ""

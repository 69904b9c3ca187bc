"""Times of all implementations, interleaved in one process, and their exactness."""

import gc
import math
import time
from pathlib import Path

import torch

from benchmarks import kernels, results
from benchmarks.case import Case, Implementation
from benchmarks.machine import synchronize
from benchmarks.peers import implementations, plain
from benchmarks.workloads import cases
from bilevel_cli.core import trees
from bilevel_cli.core.trees import Params


def run(folder: Path, size: str, device: str, rounds: int, seconds: float, only: str) -> None:
    """Writes exactness.csv, time.csv and kernels.csv.

    Args:
        folder: Where they go.
        size: Of the workloads.
        device: Option of `bilevel-run`.
        rounds: Times of each implementation.
        seconds: After which a case gets no more rounds, once it has had three.
        only: Cases whose name contains this.
    """
    for name in ("exactness.csv", "time.csv", "kernels.csv"):
        (folder / name).unlink(missing_ok=True)
    for name, make in cases("tiny", [f"device={device}", "device.dtype=float64"]).items():
        if only in name:
            case = make()
            reference = plain_hypergradient(case)
            for who, implementation in implementations(case).items():
                gap = error(implementation(), reference)
                results.append(folder / "exactness.csv", case=name, implementation=who, error=gap)
    for name, make in cases(size, [f"device={device}"]).items():
        if only in name:
            time_case(folder / "time.csv", name, make(), rounds, seconds)
            kernels.note(folder / "kernels.csv", name)


def plain_hypergradient(case: Case) -> Params:
    """Of the same numbers in float64, by plain autograd."""
    make: Implementation = getattr(plain, case.kind)(case.double())
    return make()


def error(found: Params, reference: Params) -> float:
    """|found - reference| / |reference|."""
    gap = {name: found[name].double() - value for name, value in reference.items()}
    return float(trees.norm(gap) / trees.norm(reference))


def time_case(path: Path, name: str, case: Case, rounds: int, seconds: float) -> None:
    """Appends the times of all implementations of a case to a table.

    Args:
        path: The CSV file.
        name: Of the case.
        case: The case.
        rounds: As in `run`.
        seconds: As in `run`.
    """
    missing: list[str] = []
    found = implementations(case, missing)
    if missing:
        print(f"Not installed: {', '.join(missing)}")
    reference = plain_hypergradient(case)
    gaps = {who: error(implementation(), reference) for who, implementation in found.items()}
    del reference
    # IAPTT: where the outer loss was largest.
    step = case.metrics().get("pessimistic_step", math.nan)
    device = next(case.model.parameters()).device
    begin, order = time.perf_counter(), list(found)
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
        for who in order:
            wall, cpu, on_device = measure(found[who], device)
            row = {"wall": wall, "cpu": cpu, "device": on_device}
            facts = {"error": gaps[who], "steps": case.steps, "pessimistic_step": step}
            results.append(path, case=name, implementation=who, round=number, **row, **facts)
        order = [*order[1:], order[0]]


def measure(implementation: Implementation, device: torch.device) -> tuple[float, float, float]:
    """Wall and CPU seconds, and those between two events on a GPU, of one call."""
    gc.collect()
    synchronize(device)
    on_gpu = device.type == "cuda"
    events: list[torch.cuda.Event] = []
    if on_gpu:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    cpu, wall = time.process_time(), time.perf_counter()
    for event in events[:1]:
        event.record()
    implementation()
    for event in events[1:]:
        event.record()
    synchronize(device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, events[0].elapsed_time(events[1]) / 1e3 if on_gpu else math.nan

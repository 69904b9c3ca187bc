"""Peak memory of one hypergradient, each in a fresh process, and its time against T."""

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.machine import synchronize
from benchmarks.peers import implementations
from benchmarks.workloads import cleaning, distillation
from bilevel_cli.machine.memory import peak_memory_mb

STEPS = {"full": (10, 30, 100, 300, 1000), "quick": (100,), "tiny": (4,)}
SMALL = 20_000_000  # bytes of graphs


def run(folder: Path, size: str, device: str) -> None:
    """Writes memory.csv."""
    path = folder / "memory.csv"
    path.unlink(missing_ok=True)
    for steps in STEPS[size]:
        for who in ("plain autograd", "higher", "TorchOpt", "BOAT", "ours"):
            fresh(path, size, device, "linear", who, steps, "auto")
        fresh(path, size, device, "linear", "ours", steps, str(SMALL))
    steps = {"full": 30, "quick": 10, "tiny": 4}[size]
    whole = fresh(path, size, device, "distillation", "plain autograd", steps, "auto")
    if whole is not None:
        share = str(round(whole / steps * 1e6))  # about the graph of one step
        fresh(path, size, device, "distillation", "ours", steps, share)


def one(size: str, device: str, workload: str, who: str, steps: int, budget: str) -> None:
    """In the fresh process: prints the MB and seconds of one hypergradient."""
    settings = [f"device={device}", f"device.memory_budget={budget}"]
    if workload == "linear":
        count = 60 if size == "tiny" else 2000
        case = cleaning.linear(size, steps, cleaning.UNROLLED, settings, count)
    else:
        case = distillation.build(*distillation.SIZES[size][:2], steps, settings)
    where = next(case.model.parameters()).device
    implementation = implementations(case)[who]
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where) / 1e6
    else:
        _forget_peak()
        before = peak_memory_mb(where)
    implementation()
    synchronize(where)
    peak = peak_memory_mb(where) - before
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 5:
        since = time.perf_counter()
        implementation()
        synchronize(where)
        seconds.append(time.perf_counter() - since)
    print(json.dumps({"mb": peak, "seconds": statistics.median(seconds)}))


def _forget_peak() -> None:
    gc.collect()
    # What was freed while the case was built would serve the hypergradient, and not be counted.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    # Linux forgets the highest resident size so far; elsewhere what came before counts too.
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def fresh(
    path: Path, size: str, device: str, workload: str, who: str, steps: int, budget: str
) -> float | None:
    """Appends a row to the table at `path`, and returns its MB; None where it could not be had."""
    arguments = [size, device, workload, who, str(steps), budget]
    command = [sys.executable, "-m", "benchmarks", "one", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{workload}, {who}, T = {steps}: {(done.stderr.splitlines() or ['failed'])[-1]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    facts = {"implementation": who, "budget": budget, "steps": steps}
    results.append(path, workload=workload, **facts, **found)
    return float(found["mb"])

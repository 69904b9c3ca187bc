"""What the measurements were made on, and what it could do at best."""

import datetime
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from benchmarks import results
from bilevel_cli.nn import choosing

PEERS = ("higher", "torchopt", "boat-torch", "betty-ml", "jax")


def describe(folder: Path, device: torch.device, size: str) -> None:
    """Writes machine.csv, with a large copy and a large matrix product measured now."""
    path = folder / "machine.csv"
    path.unlink(missing_ok=True)
    count = 2**28 if device.type == "cuda" else 2**25
    x = torch.randn(count, device=device)
    y = torch.empty_like(x)
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device)
    versions = [f"{name} {version(name)}" for name in PEERS]
    results.append(
        path,
        date=datetime.date.today().isoformat(),
        processor=processor(device),
        instructions=choosing.machine()["instructions"],
        device=device.type,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        peers="; ".join(versions),
        load_at_start=round(os.getloadavg()[0], 2),
        size=size,
        copy_gb_per_s=round(2 * 4 * count / _best(lambda: y.copy_(x), device) / 1e9, 1),
        matmul_gflop_per_s=round(2 * side**3 / _best(lambda: a @ a, device) / 1e9, 1),
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(fn: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(6):
        since = time.perf_counter()
        fn()
        synchronize(device)
        seconds.append(time.perf_counter() - since)
    return min(seconds)


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return choosing.processor()


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"

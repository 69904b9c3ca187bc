"""What was verified, and on what."""

import os
import platform
import subprocess
from collections.abc import Sequence

import torch

import bilevel_cli
from benchmarks import machine
from benchmarks.verify.rows import PASSED, Figure, Given, Row
from benchmarks.verify.simulation import ROOT

TITLE = "Versions"
ABOUT = "The machine, and the programs on it."
ORDER = 0
SECONDS = 60.0
ALONE = False
HARDWARE = False
LIBRARIES = ("hydra-core", "omegaconf", "numpy", "pandas", "scikit-learn", "triton", "pytest")


def items(given: Given) -> Sequence[str]:
    return ["this machine"]


def check(given: Given, item: str) -> Row:
    cpu = {
        "CPU": machine.processor(torch.device("cpu")),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }
    libraries = {name: machine.version(name) for name in LIBRARIES}
    own = {"bilevel-cli": bilevel_cli.__version__, "commit": _said(["git", "rev-parse", "HEAD"])}
    programs = {"Python": platform.python_version(), "torch": torch.__version__, **libraries}
    gpu: dict[str, Figure] = {"GPU": "simulated, none"} if given.simulated else _gpu()
    return Row(item, PASSED, figures={**gpu, **cpu, **own, **programs})


def summary(rows: Sequence[Row]) -> str:
    return ""


def _gpu() -> dict[str, Figure]:
    properties = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    there = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    nccl: tuple[int, ...] | None = torch.cuda.nccl.version() if there else None  # type: ignore[no-untyped-call]
    return {
        "GPU": torch.cuda.get_device_name(0),
        "GPUs": torch.cuda.device_count(),
        "GPU memory, GB": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "compute capability": f"{major}.{minor}",
        "driver": _said(question),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "NCCL": ".".join(map(str, nccl)) if nccl else None,
    }


def _said(command: list[str]) -> str | None:
    """The first line that a command prints; None where it is not there or fails."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)

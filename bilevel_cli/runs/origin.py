"""Where the numbers of a run come from: versions, commit and hardware."""

import functools
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import bilevel_cli
from bilevel_cli.machine import place
from bilevel_cli.machine.device import gpu_name


def process() -> dict[str, Any]:
    """What the manifest says of the process: its command, its versions, and its commit."""
    return {
        "command": shlex.join(sys.argv),
        "working_directory": str(Path.cwd()),
        "versions": {
            "bilevel-cli": bilevel_cli.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "torch": str(torch.__version__),  # with its build
            **{name: version(name) for name in ("numpy", "hydra-core", "omegaconf")},
        },
        "git_commit": git_commit(),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """What the manifest says of the hardware.

    Args:
        device: Where the run computes.
    """
    return {
        "device": str(device),
        "gpu": gpu_name(device),
        "threads": torch.get_num_threads(),
        "processes": place.here().count,
        "cores": os.cpu_count(),
    }


def origin(device: torch.device, checksum: str | None) -> dict[str, str | int | None]:
    """What the numbers of a run depend on besides its settings.

    Args:
        device: Where it runs.
        checksum: Of the data.
    """
    return {
        "bilevel-cli": bilevel_cli.__version__,
        "git_commit": git_commit(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "processes": place.here().count,
        "device": device.type,
        "data": checksum,
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `-dirty` for local changes."""
    checkout = Path(bilevel_cli.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()

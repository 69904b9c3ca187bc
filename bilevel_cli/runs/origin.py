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
from bilevel_cli.nn import choosing


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


def kernels() -> dict[str, Any]:
    """What the manifest says of kernels that were measured, and on what; at the end of a run."""
    choices = choosing.current()
    facts = {name: value for name, value in choosing.machine().items() if name != "torch"}
    return {**facts, "seconds": round(choices.seconds, 4), "taken": choices.taken}


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
    return described(Path(bilevel_cli.__file__).parents[1])


def described(checkout: Path) -> str | None:
    """The commit of a checkout, with `-dirty` for local changes; None where git does not tell.

    Git runs nothing on the way, whatever the environment or the checkout's own configuration says.
    """
    if not (checkout / ".git").exists():
        return None
    try:
        # To see whether files have changed, git would pass them through filters.
        names = _git(checkout, "config", "--name-only", "--get-regexp", r"^filter\.", fine=(0, 1))
        filters = [part for name in names.splitlines() for part in ("-c", f"{name}=")]
        return _git(checkout, *filters, "describe", "--always", "--dirty", "--abbrev=40").strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _git(checkout: Path, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
    """What git prints, without the programs that it would start of its own accord.

    Variables such as GIT_CONFIG_COUNT or GIT_DIR would tell it what to run and where to look, and
    .git/config may name a monitor of files, hooks, and how to fetch what a checkout lacks.

    Raises:
        OSError: It cannot be run.
        subprocess.SubprocessError: It fails, or takes longer than ten seconds.
    """
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    environment |= {"GIT_ALLOW_PROTOCOL": "none"}  # there is no such protocol: nothing is fetched
    settings = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "diff.ignoreSubmodules=all")
    plain = [part for one in settings for part in ("-c", one)]
    done = subprocess.run(
        ["git", *plain, "-C", str(checkout), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode not in fine:
        raise subprocess.SubprocessError(done.stderr)
    return done.stdout

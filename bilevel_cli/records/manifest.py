"""manifest.json: what a run was, where it ran, and how it ended."""

import functools
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import bilevel_cli
from bilevel_cli.commands import torchrun
from bilevel_cli.runs.doubts import Doubt


class Manifest:
    """Written when a run begins and again when it ends.

    Args:
        directory: Of the run.
        settings: The resolved configuration.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self._path = directory / "manifest.json"
        self._entries: dict[str, Any] = {
            "status": "running",
            "error": None,
            "doubts": {},
            "started": _now(),
            "ended": None,
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
            "settings_sha256": hashlib.sha256(
                json.dumps(settings, sort_keys=True).encode()
            ).hexdigest(),
            "settings": settings,
        }

    def begin(
        self,
        device: torch.device,
        data: str,
        checksum: str | None,
        first_step: int,
        higher_is_better: tuple[str, ...],
        doubts: dict[str, Doubt],
    ) -> None:
        """Notes what is known once the run is built.

        Args:
            device: Where it runs.
            data: What a reader of the scores must know of the data.
            checksum: Of the data.
            first_step: Outer steps already taken, by a run that this one continues.
            higher_is_better: Patterns of the names of scores that are.
            doubts: Of the run that this one continues.
        """
        self._entries |= {
            "doubts": doubts,
            "data": data,
            "data_sha256": checksum,
            "first_step": first_step,
            "higher_is_better": higher_is_better,
            "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
            "processes": torchrun.place().count,
            "cores": os.cpu_count(),
        }
        self._write()

    def doubt(self, doubts: dict[str, Doubt]) -> None:
        """Notes why the numbers of the run may not be what they seem.

        Args:
            doubts: All so far, by kind.
        """
        self._entries["doubts"] = doubts
        self._write()

    def end(self, status: str, error: str | None = None, **more: int | None) -> None:
        """Notes the end.

        Args:
            status: completed, failed, diverged, oom or interrupted.
            error: One line, where there was one.
            more: Other things to note.
        """
        self._entries |= {"status": status, "error": error, "ended": _now(), **more}
        self._write()

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self._entries, indent=2) + "\n")
            partial.replace(self._path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


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
        "processes": torchrun.place().count,
        "device": device.type,
        "data": checksum,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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

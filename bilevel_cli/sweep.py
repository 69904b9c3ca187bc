"""Sweeps: what the folder of a job is called, and what remains to be said when all are over."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_LONGEST = 200  # file systems take 255 bytes


def slug(overrides: str) -> str:
    """A folder name for a job's overrides: one folder, whatever slashes their values have."""
    name = re.sub(r"[/\\\x00]+", "_", overrides).strip(". ")
    if name and name == overrides and len(name.encode()) <= _LONGEST:
        return name
    # Two jobs whose names become alike must not share a folder.
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:12]
    return name.encode()[: _LONGEST - 13].decode(errors="ignore") + "_" + digest


failures: dict[str, str] = {}
"""The jobs of the last sweep that did not complete: folder and reason."""


class Summary(Callback):
    """Collects the jobs that did not complete, from the manifests below the sweep's directory.

    So it finds those of other processes too. A job that was refused because its folder holds
    another run leaves that run's manifest alone; the command adds it to `failures` itself.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        failures.clear()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        root = Path(config.hydra.sweep.dir)
        for path in sorted(root.rglob("manifest.json")):
            manifest = json.loads(path.read_text())
            folder = path.parent.relative_to(root)
            # The message of a job with replicas has told of those that failed.
            told = any(str(above) in failures for above in folder.parents)
            if manifest["status"] != "completed" and not told:
                reason = f"{manifest['status']}: {manifest['error']}"
                failures.setdefault(str(folder), reason)

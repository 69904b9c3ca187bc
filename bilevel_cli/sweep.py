"""What remains to be said when a sweep is over."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

failures: list[str] = []
"""One line for each job of the last sweep that did not complete."""


class Summary(Callback):
    """Collects the jobs that did not complete, from the manifests below the sweep's directory."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        failures.clear()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        root = Path(config.hydra.sweep.dir)
        for path in sorted(root.rglob("manifest.json")):
            manifest = json.loads(path.read_text())
            if manifest["status"] != "completed":
                failures.append(
                    f"  {path.parent.relative_to(root)}: {manifest['status']}: {manifest['error']}"
                )

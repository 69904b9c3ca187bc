"""Weights & Biases."""

import hashlib
from pathlib import Path
from typing import Any

from bilevel_cli.loggers.base import Logger, require, title
from bilevel_cli.records.table import Row
from bilevel_cli.vocabulary import COMPLETED


class WandB(Logger):
    """A run of Weights & Biases, which a continued run continues.

    Args:
        project: Its name there.
        entity: Whose project; None for the user's own.
        mode: "online"; or "offline", for files that `wandb sync` uploads.
    """

    def __init__(self, project: str, entity: str | None, mode: str) -> None:
        require("wandb", "wandb")
        self.project, self.entity, self.mode = project, entity, mode

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        import wandb  # here: it takes a second to import

        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=directory,
            id=hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16],
            name=title(directory),
            config=settings,
            allow_val_change=True,  # a run that is continued may have more outer steps
            resume="allow",
            reinit="create_new",  # replicas of one process are runs beside each other
        )
        # A step of theirs never goes back, and rows of a killed run come again: ours is a column.
        self._run.define_metric("*", step_metric="step")

    def write(self, table: str, row: Row) -> None:
        found = {f"{table}/{name}": value for name, value in row.items() if name != "step"}
        self._run.log({"step": row["step"], **found})

    def end(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == COMPLETED else 1)

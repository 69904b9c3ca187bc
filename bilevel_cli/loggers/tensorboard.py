"""TensorBoard."""

from pathlib import Path
from typing import Any

import yaml

from bilevel_cli.loggers.base import Logger, require
from bilevel_cli.records.table import Row


class TensorBoard(Logger):
    """Event files in the folder `tensorboard` of the run: `tensorboard --logdir outputs`."""

    def __init__(self) -> None:
        require("tensorboard", "tensorboard")

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: it takes a second to import

        # What a killed run wrote after its checkpoint is hidden: it comes again. Where there was
        # no checkpoint all of it does, the scores of step 0 too.
        purged = step + 1 if step else 0
        self._writer = SummaryWriter(directory / "tensorboard", purge_step=purged)
        indented = "    " + yaml.safe_dump(settings).replace("\n", "\n    ")
        self._writer.add_text("settings", indented, step)

    def write(self, table: str, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"{table}/{name}", value, row["step"])
        # The writer keeps events for two minutes. A checkpoint that is saved meanwhile counts these
        # rows as written: should the run be killed then, they would not come again.
        self._writer.flush()

    def end(self, status: str) -> None:
        self._writer.close()

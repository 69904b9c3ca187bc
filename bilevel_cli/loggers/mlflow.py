"""MLflow."""

import time
from pathlib import Path
from typing import Any

from bilevel_cli.loggers.base import Logger, require
from bilevel_cli.records.settings import flat
from bilevel_cli.records.table import Row
from bilevel_cli.vocabulary import COMPLETED, INTERRUPTED

FOLDER = "bilevel.directory"  # the tag by which a continued run is found
LONGEST = 6000  # characters of a parameter's value


class MLflow(Logger):
    """A run of MLflow, which a continued run continues.

    Args:
        uri: Of the tracking server, or of a database such as sqlite:///mlflow.db.
        experiment: Its name there.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        require("mlflow", "mlflow")
        self.uri, self.experiment = uri, experiment

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(self.uri)
        folder = str(directory.resolve())
        there = self._client.get_experiment_by_name(self.experiment)
        number = there.experiment_id if there else self._client.create_experiment(self.experiment)
        found = self._client.search_runs([number], f"tags.`{FOLDER}` = '{folder}'")
        if found and step:
            self._run = found[0].info.run_id
            self._client.set_terminated(self._run, "RUNNING")
            return
        self._run = self._client.create_run(number, tags={FOLDER: folder}).info.run_id
        params = {key: str(value)[:LONGEST] for key, value in flat(settings).items()}
        self._client.log_batch(self._run, params=[Param(*pair) for pair in params.items()])

    def write(self, table: str, row: Row) -> None:
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(row["step"])
        values = [(f"{table}/{name}", value) for name, value in row.items() if name != "step"]
        self._client.log_batch(
            self._run, metrics=[Metric(name, value, now, step) for name, value in values]
        )

    def end(self, status: str) -> None:
        ended = {COMPLETED: "FINISHED", INTERRUPTED: "KILLED"}.get(status, "FAILED")
        self._client.set_tag(self._run, "status", status)
        self._client.set_terminated(self._run, ended)

"""MLflow."""

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
from hydra.utils import to_absolute_path

from bilevel_cli.loggers.base import Logger, require, title
from bilevel_cli.records import lock
from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.records.settings import flat
from bilevel_cli.records.table import Row
from bilevel_cli.vocabulary import COMPLETED, INTERRUPTED

log = logging.getLogger(__name__)

FOLDER = "bilevel.directory"  # the tag with the folder of a run
MARK = "bilevel.mark"  # the tag by which a continued run is found: no filter has quotes in it
CONTINUED = "bilevel.continued"  # begins the tags with what a continued run has changed
LONGEST = 6000  # characters of a parameter's value
MANY = 100  # parameters at a time


class MLflow(Logger):
    """A run of MLflow, which a continued run continues.

    What was logged as a parameter stays as it is in MLflow: what a continued run has changed is in
    tags, such as `bilevel.continued.outer_steps`.

    Args:
        uri: Of the tracking server, or of a database such as sqlite:///mlflow.db, where the command
            was started. None for what MLFLOW_TRACKING_URI says, or else mlflow.db in the user's
            data folder, which runs started anywhere share.
        experiment: Its name there.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        require("mlflow", "mlflow")
        self.uri, self.experiment = uri, experiment

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table it makes
        uri = address(self.uri)
        with _alone(uri):
            self._client = MlflowClient(uri)
            number = self._number()
        folder = str(directory.resolve())
        mark = hashlib.sha256(folder.encode()).hexdigest()[:32]
        params = {_named(key): str(value)[:LONGEST] for key, value in flat(settings).items()}
        self._there: dict[tuple[str, int], float] = {}
        found = self._client.search_runs([number], f"tags.`{MARK}` = '{mark}'", max_results=1)
        # One that was killed before its first checkpoint begins anew, and is the same run.
        if found and (step or (found[0].info.status == "RUNNING" and _same(found[0], params))):
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            self._note(params, found[0].data.params)
            self._there = self._rows_after(step, list(found[0].data.metrics))
            return
        made = self._client.create_run(
            number, tags={MARK: mark, FOLDER: folder}, run_name=title(directory)
        )
        self._run = made.info.run_id
        self._note(params, {})

    def write(self, table: str, row: Row) -> None:
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(row["step"])
        values = {_named(f"{table}/{name}"): row[name] for name in row if name != "step"}
        new = [name for name, value in values.items() if self._there.get((name, step)) != value]
        self._client.log_batch(self._run, [Metric(name, values[name], now, step) for name in new])

    def end(self, status: str) -> None:
        ended = {COMPLETED: "FINISHED", INTERRUPTED: "KILLED"}.get(status, "FAILED")
        self._client.set_tag(self._run, "status", status)
        self._client.set_terminated(self._run, ended)

    def _number(self) -> str:
        """Of the experiment, which another job of a sweep may be making meanwhile."""
        there = self._client.get_experiment_by_name(self.experiment)
        if there is None:
            try:
                return str(self._client.create_experiment(self.experiment))
            except Exception:
                there = self._client.get_experiment_by_name(self.experiment)
                if there is None:
                    raise
        return str(there.experiment_id)

    def _note(self, params: dict[str, str], there: dict[str, str]) -> None:
        """Notes settings: as parameters, or where these are there and others, as tags."""
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items() if key not in there]
        for first in range(0, len(new), MANY):
            self._client.log_batch(self._run, params=new[first : first + MANY])
        for key, value in params.items():
            if there.get(key, value) != value:
                self._client.set_tag(self._run, f"{CONTINUED}.{key}", value)

    def _rows_after(self, step: int, names: list[str]) -> dict[tuple[str, int], float]:
        """The numbers of rows that a killed run has written and that come again.

        Args:
            step: The last outer step that does not come again; 0 for none.
            names: Of the metrics.
        """
        return {
            (name, one.step): one.value
            for name in names
            for one in self._client.get_metric_history(self._run, name)
            if one.step > step or not step
        }


def address(uri: str | None) -> str:
    """Where MLflow has its runs; `uri` as of `MLflow`."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        path = platformdirs.user_data_path("bilevel-cli") / "mlflow.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("MLflow has this run in sqlite:///%s", path)
        return f"sqlite:///{path}"
    if relative := re.fullmatch(r"sqlite:///([^/].*)", uri):
        path = Path(to_absolute_path(relative[1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{path}"
    return uri


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keeps other jobs out of a database in a file, while MLflow makes its tables.

    It makes them in steps that know nothing of each other: of four jobs that began together, three
    found a database half made.
    """
    path = uri.removeprefix("sqlite:///")
    if path == uri or not Path(path).parent.is_dir():
        yield
        return
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | CAREFUL, 0o666)
    try:
        while lock.take(descriptor) is False:
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _same(run: Any, params: dict[str, str]) -> bool:
    there = run.data.params
    return all(params.get(key) == value for key, value in there.items())


def _named(name: str) -> str:
    """A name with the letters that MLflow takes."""
    return re.sub(r"[^\w./: -]", "_", name)

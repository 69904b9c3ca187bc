"""What other tools have of a run that was killed is what its CSV files have."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_loggers import rows

COMMAND = ["task=quadratic", "device=cpu", "outer_steps=60", "inner_steps=60", "log_every=1"]
COMMAND += ["eval_every=3", "save_every=7", "hydra.run.dir=run"]
MEASURED = ("seconds", "peak_memory_mb")  # of the machine: otherwise when a row comes again


def killed_and_continued(*overrides: str) -> None:
    """A run in the folder `run`, killed twice while it steps, and continued to its end."""
    command = [sys.executable, "-m", "bilevel_cli", *COMMAND, *overrides]
    for least in (5, 25):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not Path("run/train.csv").exists() or len(rows(Path("run/train.csv"))) < least:
            assert time.monotonic() < deadline
            assert child.poll() is None, "It ended before it was killed."
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def tables() -> dict[str, dict[int, float]]:
    """The numbers of the CSV files by the names that loggers give them, and by steps."""
    return {
        f"{table}/{name}": {
            int(row["step"]): float(row[name]) for row in rows(Path(f"run/{table}.csv"))
        }
        for table in ("train", "eval")
        for name in rows(Path(f"run/{table}.csv"))[0]
        if name != "step"
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own, of SQLAlchemy
def test_mlflow_has_each_row_of_a_killed_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    killed_and_continued("loggers=[mlflow]", "loggers.mlflow.uri='sqlite:///ml.db'")
    client: Any = mlflow.MlflowClient("sqlite:///ml.db")
    (run,) = client.search_runs([client.get_experiment_by_name("bilevel").experiment_id])
    assert run.info.status == "FINISHED"
    expected = tables()
    assert run.data.metrics.keys() == expected.keys()
    for name, column in expected.items():
        history = client.get_metric_history(run.info.run_id, name)
        there = {one.step: one.value for one in sorted(history, key=lambda one: one.timestamp)}
        if name.partition("/")[2] not in MEASURED:
            assert len(history) == len(column), name
            assert there == column, name
        assert there.keys() == column.keys(), name


@pytest.mark.slow
def test_tensorboard_has_each_row_of_a_killed_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    killed_and_continued("loggers=[tensorboard]")
    found = events.EventAccumulator("run/tensorboard", size_guidance={"scalars": 0}).Reload()
    expected = tables()
    assert set(found.Tags()["scalars"]) == expected.keys()
    for name, column in expected.items():
        there = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in there] == list(column), name
        for step, value in there:  # float32
            assert math.isclose(value, column[step], rel_tol=1e-6, abs_tol=1e-30), (name, step)

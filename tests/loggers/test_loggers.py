"""Loggers get every row that the CSV files have, and cannot end a run."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from configs import composed, options
from omegaconf import OmegaConf
from runners import runner_in

from bilevel_cli.errors import UsageError
from bilevel_cli.loggers.base import Logger, Loggers, title
from bilevel_cli.records.table import Row
from bilevel_cli.runs import entry, lifetime
from bilevel_cli.runs.runner import Runner

QUICK = ["device=cpu", "task=quadratic", "log_every=1", "eval_every=5", "save_every=4"]


class Memory(Logger):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, directory: Path, settings: dict[str, Any], step: int) -> None:
        self.told.append(("begin", settings["seed"], step))

    def write(self, table: str, row: Row) -> None:
        self.told.append((table, row))

    def end(self, status: str) -> None:
        self.told.append(("end", status))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def watched(monkeypatch: pytest.MonkeyPatch, **loggers: Logger) -> None:
    monkeypatch.setattr(lifetime, "Loggers", lambda made: Loggers({**made, **loggers}))


def test_a_logger_gets_each_row_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    watched(monkeypatch, memory=memory)
    entry.run(composed(*QUICK, "outer_steps=6"), tmp_path, {})
    assert memory.told[0] == ("begin", 0, 0)
    assert memory.told[-1] == ("end", "completed")
    for table in ("train", "eval"):
        told = [
            {k: str(v) for k, v in row.items()} for name, row in memory.told[1:-1] if name == table
        ]
        assert told == rows(tmp_path / f"{table}.csv")
    entry.run(composed(*QUICK, "outer_steps=8"), tmp_path, {})
    assert ("begin", 0, 6) in memory.told


def test_a_logger_that_fails_is_dropped_and_the_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Memory):
        def write(self, table: str, row: Row) -> None:
            super().write(table, row)
            raise ConnectionError("no route to the server\nand more")

    broken, memory = Broken(), Memory()
    watched(monkeypatch, broken=broken, memory=memory)
    entry.run(composed(*QUICK, "outer_steps=6"), tmp_path, {})
    assert len(broken.told) == 2
    assert memory.told[-1] == ("end", "completed")
    (line,) = [line for line in caplog.messages if "broken" in line]
    told = "broken gets no more rows, the CSV files do: ConnectionError: no route to the server and"
    assert line.startswith(told)
    assert "in write)" in line  # whose code raised it


def test_a_logger_of_a_run_that_did_not_begin_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory()
    watched(monkeypatch, memory=memory)
    with pytest.raises(UsageError, match="Darts needs a start that is not learned"):
        entry.run(composed(*QUICK, "method=darts", "start=learned"), tmp_path, {})
    assert memory.told == []
    assert "gets no more rows" not in caplog.text


@pytest.mark.parametrize("name", options("loggers"))
def test_a_logger_whose_package_is_missing_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=rf"pip install 'bilevel-cli\[{name}\]'"):
        entry.run(composed(*QUICK, f"loggers=[{name}]"), tmp_path, {})
    assert not (tmp_path / "train.csv").exists()


def test_other_loggers_are_no_other_settings(tmp_path: Path) -> None:
    entry.run(composed(*QUICK, "outer_steps=2"), tmp_path, {})
    config = composed(*QUICK, "outer_steps=4")
    OmegaConf.update(
        config, "loggers", {"memory": {"_target_": f"{__name__}.Memory"}}, force_add=True
    )
    entry.run(config, tmp_path, {})


def test_tensorboard_has_the_numbers_of_the_tables(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    entry.run(composed(*QUICK, "outer_steps=6", "loggers=[tensorboard]"), tmp_path, {})
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for table, name in (("train", "outer_loss"), ("eval", "value")):
        there = {event.step: event.value for event in found.Scalars(f"{table}/{name}")}
        expected = {int(r["step"]): float(r[name]) for r in rows(tmp_path / f"{table}.csv")}
        assert there == pytest.approx(expected, rel=1e-6)  # TensorBoard keeps float32


class Service:
    """Stands for a run of Weights & Biases."""

    def __init__(self, **given: Any) -> None:
        self.given, self.rows, self.summary = given, list[dict[str, Any]](), dict[str, Any]()

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.summary["code"] = exit_code


def test_weights_and_biases_knows_a_continued_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Service] = []

    def init(**given: Any) -> Service:
        begun.append(Service(**given))
        return begun[-1]

    spec = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: spec)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for steps in (2, 4):
        config = composed(*QUICK, f"outer_steps={steps}", "loggers=[wandb]")
        entry.run(config, tmp_path, {})
    assert begun[0].given["id"] == begun[1].given["id"]
    assert begun[0].given["config"]["solver"]["lr"] == 0.1
    # Another number of steps is another value of a setting, which W&B else refuses.
    assert begun[1].given["config"]["outer_steps"] == 4
    assert begun[1].given["allow_val_change"]
    # Else the second of several replicas would write into the run of the first.
    assert begun[1].given["reinit"] == "create_new"
    assert [row["step"] for row in begun[1].rows if "train/outer_loss" in row] == [3, 4]
    assert begun[1].summary == {"status": "completed", "code": 0}


def test_a_run_is_called_by_the_end_of_its_path(tmp_path: Path) -> None:
    assert title(tmp_path / "three" / "method=reverse,seed=0") == "three/method=reverse,seed=0"
    assert len(title(tmp_path / ("a" * 200))) == 128


def test_a_runner_by_itself_tells_nobody(tmp_path: Path) -> None:
    config = composed(*QUICK, "outer_steps=1")
    runner: Runner = runner_in(config, tmp_path)
    runner.run()

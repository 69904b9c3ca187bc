"""Someone else's method and task: one file and one yaml each, and no edit of the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from plugins import FILES
from runners import runner_in

from bilevel_cli import check_method, check_task
from bilevel_cli.config.options import CONF


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)  # another test's, in a folder that is gone
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_strangers_method_and_task_conform(folder: Path) -> None:
    search = f"hydra.searchpath=[file://{folder / 'conf'}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [search, "task=follow", "method=sign", "device=cpu"])
    check_method(instantiate(config.method))
    check_task(runner_in(config, folder).experiment.task)


def test_a_strangers_method_and_task_run_and_resume(folder: Path) -> None:
    def run(directory: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "bilevel_cli", "--config-dir", "conf", "task=follow"]
        command += ["method=sign", f"hydra.run.dir={directory}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("whole").returncode == 0
    assert run("halves", "outer_steps=30").returncode == 0
    assert run("halves").returncode == 0
    whole, halves = (pd.read_csv(folder / name / "eval.csv") for name in ("whole", "halves"))
    pd.testing.assert_series_equal(whole["distance"], halves["distance"], check_exact=True)
    assert whole["distance"].iloc[-1] < 0.1 * whole["distance"].iloc[0]
    wrong = run("wrong", "method.scale=much")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "method.scale needs a number, got 'much'" in wrong.stderr


def test_a_strangers_options_are_listed(folder: Path) -> None:
    command = [sys.executable, "-m", "bilevel_cli", "--config-dir", "conf", "method=?"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^  sign +sign of the hypergradient$", listed, re.MULTILINE)

"""Someone else's method and task: one file and one yaml each, and no edit of the project."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from bilevel_cli.check.conformance import check_method, check_task
from bilevel_cli.config.options import CONF
from bilevel_cli.runs import entry

METHOD = '''
"""The sign of another method's gradient."""

from dataclasses import dataclass

from bilevel_cli.methods.reverse import Reverse


@dataclass(frozen=True)
class SignOfReverse(Reverse):
    """Sign of the hypergradient.

    Args:
        window: As in Reverse.
        segment: As in Reverse.
        scale: Length of each entry.
    """

    scale: float

    def estimate(self, loop, outer, data, carry):
        found = super().estimate(loop, outer, data, carry)
        grad = {name: self.scale * value.sign() for name, value in found.grad.items()}
        return found._replace(grad=grad)
'''
TASK = '''
"""One number that a scalar follower should come near."""

import torch

from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task


class Follow(Task):
    """f = (z - lambda)^2 / 2, F = (z - target)^2 / 2.

    Args:
        target: Where the follower should be.
        device: Where the numbers live.
    """

    def __init__(self, target: float, device: torch.device) -> None:
        self.target, self.zero = target, torch.zeros(1, device=device)

    def init_outer(self, generator):
        return {"lam": self.zero.clone()}

    def init_inner(self, outer, data):
        return data.init

    def sample(self, num_steps, generator):
        noise = torch.randn(num_steps, generator=generator, device=self.zero.device)
        return StepData({"z": self.zero}, {"noise": 0.01 * noise}, {})

    def inner_loss(self, inner, outer, batch):
        return 0.5 * (inner["z"] - outer["lam"] - batch["noise"]).square().sum()

    def outer_loss(self, inner, outer, batch):
        return 0.5 * (inner["z"] - self.target).square().sum()

    def evaluate(self, loop, outer, inner):
        return {"distance": (outer["lam"] - self.target).abs().sum()}
'''
FILES = {
    "mine/__init__.py": "",
    "mine/sign.py": METHOD,
    "mine/follow.py": TASK,
    "conf/method/sign.yaml": (
        "# sign of the hypergradient\n_target_: mine.sign.SignOfReverse\n"
        "window: null\nsegment: null\nscale: 1.0\n"
    ),
    "conf/task/follow.yaml": (
        "# @package _global_\n# one number to follow\ndefaults:\n  - override /data: null\n"
        "  - override /model: null\n\ntask:\n  _target_: mine.follow.Follow\n  target: 0.7\n\n"
        "suggest:\n  outer_steps: 60\n  inner_steps: 5\n  inner_lr: 0.5\n  outer_lr: 0.05\n"
        "  eval_every: 10\n"
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)  # another test's, in a folder that is gone
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_strangers_method_and_task_conform(folder: Path) -> None:
    search = f"hydra.searchpath=[file://{folder / 'conf'}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [search, "task=follow", "method=sign", "device=cpu"])
    check_method(instantiate(config.method))
    settings = entry.resolved(config)
    check_task(entry.build(config, settings, folder, {}).task)


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

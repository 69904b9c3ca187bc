"""SIGKILL at random moments: a run ends as if nothing had happened, to the last bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import small
from torch.utils._pytree import tree_flatten

from bilevel_cli.runs import checkpoint
from bilevel_cli.vocabulary import CHECKPOINT

pytestmark = pytest.mark.faults

KILLS = 3  # of each run
# Every kind of memory that one outer step hands to the next, each on a task where it matters.
RUNS = [
    "task=quadratic method=cg method.warm_adjoint=true start=warm solver=momentum",
    "task=quadratic method=iaptt solver=adam",
    "task=quadratic method=reverse start=partial solver=adamw optimizer=sgd",
    "task=quadratic method=pes method.horizon=5",
    "task=quadratic method=es_single method.horizon=5 solver=nesterov_momentum",
    "task=quadratic method=f2sa scheduler=cosine",
    "task=quadratic method=bvfsm on_divergence=restore",
    "task=reweight method=saba task.batch_size=7",
    "task=reweight method=iaptt task.folds=3 solver=momentum",
    "task=reweight method=nystrom task/weights=simplex optimizer=mirror_descent start=warm",
    "task=logistic method=soba task.batch_size=5 task.outer_batch_size=5",
    "task=logistic method=sustain task.batch_size=5 task.outer_batch_size=5",
    "task=simulated method=mrbo scheduler=power",
    "task=ridge method=fsla task.batch_size=5",
    "task=meta method=iaptt solver=gd_learned_lr",
    "task=meta method=imaml solver=nesterov",
    "task=hyper_representation method=reptile",
    "task=hpo method=reverse solver=momentum_learned",
    "task=meta_weight_net method=one_step start=warm",
    "task=distill method=truncated start=pool",
    "task=quadratic method=random_search replicas=3",
]


def settings(run: str) -> list[str]:
    task, *others = run.split()
    steps = ["outer_steps=120", "inner_steps=3", "log_every=1", "eval_every=7", "save_every=4"]
    return [task, *small(task.removeprefix("task=")), *steps, "device=cpu", *others]


@pytest.mark.parametrize("number", range(len(RUNS)), ids=RUNS.__getitem__)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(
    number: int, tmp_path: Path
) -> None:
    script = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "killing.py")]
    given = [str(tmp_path), str(KILLS), str(number), *settings(RUNS[number])]
    done = subprocess.run([*script, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["codes"] == [0, 0], (tmp_path / "whole.out").read_text()[-2000:]
    assert len(found["kills"]) == KILLS
    whole, killed = (runs(tmp_path / name) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name, folder in whole.items():
        check_alike(folder, killed[name])


def runs(folder: Path) -> dict[str, Path]:
    """The folders of the runs in a folder: itself, or those of its replicas."""
    return {str(p.parent.relative_to(folder)): p.parent for p in folder.rglob("manifest.json")}


def check_alike(one: Path, other: Path) -> None:
    """Compares two finished runs: their tables, their results, what their checkpoints hold."""
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in other.iterdir()} == names, "no file is left of a killed process"
    for name in names - {"manifest.json", ".hydra", "lock", "bilevel.log"}:
        if name.endswith(".csv"):
            pd.testing.assert_frame_equal(numbers(one / name), numbers(other / name))
        elif not name.startswith("checkpoint"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    left, right = (learned(folder / CHECKPOINT) for folder in (one, other))
    assert left[1] == right[1]
    for x, y in zip(left[0], right[0], strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def numbers(path: Path) -> pd.DataFrame:
    """A table as text, without what measures the machine."""
    return pd.read_csv(path, dtype=str).drop(columns=["seconds", "peak_memory_mb"], errors="ignore")


def learned(path: Path) -> tuple[list[Any], Any]:
    state = checkpoint.load(path)
    parts = ("step", "outer", "optimizer", "scheduler", "carry", "sampling", "extras", "noise")
    return tree_flatten({name: state[name] for name in parts})

"""Outer steps taken as one function are the steps of a run that takes them one by one."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import configured
from runners import runner_in
from torch import Tensor

from bilevel_cli.runs.runner import Runner

KNOWN = torch.__version__.split(".")[:2] == ["2", "13"]  # as tests/machine/test_looping.py has it
pytestmark = [
    pytest.mark.usefixtures("digits_read_once"),
    pytest.mark.skipif(not KNOWN, reason="the private functions of another torch may be others"),
]

FUSED, UNFUSED = "device.capture=compile", "device.capture=null"
SABA = ("task=quadratic", "method=saba", "task.inner_dim=4", "task.outer_dim=3")
CADENCE = ("log_every=10", "eval_every=20", "save_every=20", "outer_steps=40")
TIMINGS = ["seconds", "peak_memory_mb"]


def made(folder: Path, *overrides: str) -> Runner:
    folder.mkdir(exist_ok=True)
    return runner_in(configured("device=cpu", "device.dtype=float64", *overrides), folder)


def fuses(runner: Runner) -> bool:
    return runner.fusion.on and runner.fusion._fused is not None


def moved(runner: Runner) -> dict[str, Any]:
    """All that a checkpoint holds of what moves."""
    return runner.state.saved()


def check_same(ours: Any, theirs: Any, where: str = "", rtol: float = 1e-12) -> None:
    """Two checkpoints: the same names, types and shapes, numbers to rounding, streams to the bit.

    Args:
        ours: Of a fused run.
        theirs: Of one that is not.
        where: The names that lead there.
        rtol: Relative to the largest entry of a tensor.
    """
    assert type(ours) is type(theirs), where
    if isinstance(ours, Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        scale = float(theirs.abs().max()) if theirs.numel() and theirs.is_floating_point() else 0.0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * scale, msg=lambda m: where + m)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for name in ours:
            check_same(ours[name], theirs[name], f"{where}.{name}", rtol)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            check_same(one, other, f"{where}.{number}", rtol)
    else:
        assert ours == theirs, where


def rows(folder: Path, name: str = "train.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name).drop(columns=TIMINGS, errors="ignore")


def both(folder: Path, *overrides: str) -> tuple[Runner, Runner]:
    """A run that fuses, or has said why not, and the same run that does not; both at their ends."""
    pair = made(folder / "fused", *overrides, FUSED), made(folder / "unfused", *overrides, UNFUSED)
    for runner in pair:
        runner.run()
    for name in ("train.csv", "eval.csv"):
        ours, theirs = (rows(folder / kind, name) for kind in ("fused", "unfused"))
        # Distances to an optimum are differences of numbers of order one.
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9, atol=1e-11)
    return pair


@pytest.mark.parametrize(
    "method",
    ["saba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mrbo", "fsla"))],
)
def test_methods_with_a_memory_of_the_past_move_as_unfused(method: str, tmp_path: Path) -> None:
    # Tables of gradients, and previous iterates, of which a loop in place might see the next ones.
    overrides = (f"method={method}", *CADENCE, "inner_steps=1")
    ours, theirs = both(tmp_path, *SABA, *overrides)
    assert fuses(ours)
    check_same(moved(ours), moved(theirs))

"""The metric that says how far the parameters have gone."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from configs import composed, small

from bilevel_cli.runs import entry

NORMS = ["metrics=[norms]", "log_every=1", "device=cpu", "device.dtype=float64"]
COLUMNS = ["outer_norm", "outer_displacement", "inner_norm", "inner_displacement"]


def logged(directory: Path, *overrides: str) -> pd.DataFrame:
    entry.run(composed(*overrides, *NORMS), directory, {})
    return pd.read_csv(directory / "train.csv", index_col="step")


def test_norms_are_those_of_the_toy_step_by_step(tmp_path: Path) -> None:
    # One inner step of 0.5 on y_1^2 / 2 - x y_1 from y = 0, and x - 0.05 dF/dx outside.
    task = ["task=bda_toy", "task.start=[3.0,0.0,4.0]", "method=reverse", "start=cold"]
    found = logged(tmp_path, *task, "inner_steps=1", "outer_steps=2")
    x, y = 3.0, 1.5
    rows = found[COLUMNS].to_numpy()
    assert rows[0].tolist() == pytest.approx([x, 0, math.hypot(y, 4), y])
    moved = 0.05 * ((x - 4) + (y - 1) * 0.5)
    following = (x - moved) / 2
    expected = [x - moved, abs(moved), math.hypot(following, 4), abs(following - y)]
    assert rows[1].tolist() == pytest.approx(expected)


def test_a_displacement_is_counted_from_a_random_start_of_the_run(tmp_path: Path) -> None:
    run = ["task=memory_toy", "seed=3", "outer_steps=4"]
    found = logged(tmp_path / "whole", *run)
    assert found["outer_displacement"].iloc[0] == 0
    assert float(found["outer_norm"].iloc[0]) > 0.01
    angles = torch.tensor(found["outer_norm"].to_numpy())
    displaced = torch.tensor(found["outer_displacement"].to_numpy())
    torch.testing.assert_close(displaced, (angles - angles[0]).abs())


def test_episodes_have_norms_together(tmp_path: Path) -> None:
    # Without an inner step to speak of, each of the two episodes stays at the start.
    run = ["task=sinusoid", "method=reverse", *small("sinusoid"), "solver.lr=1e-12"]
    found = logged(tmp_path, *run, "outer_steps=3").iloc[-1]
    assert found["outer_norm"] > 0
    assert found["inner_norm"] == pytest.approx(math.sqrt(2) * found["outer_norm"], rel=1e-6)
    assert found["outer_displacement"] > 0

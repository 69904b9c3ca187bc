"""Short trajectories of every method, kept as files: a refactor must reproduce them.

A change that should move them regenerates them with `make golden`, and its commit says why.
"""

import sys
import tempfile
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from configs import composed, options
from runners import runner_in

from bilevel_cli.errors import UsageError
from bilevel_cli.runs.descent import COLUMNS

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = ("device=cpu", "device.dtype=float64", "outer_steps=5", "log_every=1")
# The second for methods that refuse the first, whose outer loss does not contain lambda.
TASKS = (
    ("task=quadratic",),
    (
        *("task=simulated", "task.inner_samples=40", "task.outer_samples=30"),
        *("task.inner_dim=6", "task.outer_dim=3", "task.batch_size=7", "task.outer_batch_size=8"),
    ),
)
# What is no part of a trajectory: what the machine took, and what is only looked at.
BESIDES = ["seconds", "peak_memory_mb", *COLUMNS]


def trajectory(method: str, directory: Path) -> pd.DataFrame:
    # With its own solver where it refuses this one.
    for solver, task in product((("solver=momentum", "solver.momentum=0.5"), ()), TASKS):
        config = composed(*RUN, *task, f"method={method}", *solver)
        try:
            run = runner_in(config, directory)
        except UsageError:
            continue
        run.run()
        return pd.read_csv(run.rows.train.path).drop(columns=BESIDES, errors="ignore")
    raise AssertionError(f"{method} serves none of {TASKS}")


@pytest.mark.parametrize("method", options("method"))
def test_a_method_reproduces_its_trajectory(method: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{method}.csv"
    assert path.exists(), f"There is no {path.name} yet: run make golden, and commit it."
    # Sums in another order, on another processor, move the last digits.
    pd.testing.assert_frame_equal(
        trajectory(method, tmp_path), pd.read_csv(path), rtol=1e-9, atol=1e-12, check_dtype=False
    )


def test_every_golden_file_is_of_a_method() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.csv")) == options("method")


if __name__ == "__main__":
    for name in sys.argv[1:] or options("method"):
        with tempfile.TemporaryDirectory() as folder:
            trajectory(name, Path(folder)).to_csv(GOLDEN / f"{name}.csv", index=False)

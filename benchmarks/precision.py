"""What `device.precision=bf16-mixed` costs the hypergradient of each method: `precision_gap`."""

import math
import tempfile
from pathlib import Path

import pandas as pd

import bilevel_cli
from bilevel_cli.config.options import names
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.metrics.precision_gap import COLUMN

STEPS = 10
# Columns: examples that are weighed and a penalty, both of an MLP; a start of a small convolutional
# network, from which five steps are taken.
TASKS = {
    "reweight": ["data=digits", "data.train=300", "model=mlp", "model.width=32", "inner_steps=20"],
    "hpo": ["data=digits", "data.train=300", "model=mlp", "model.width=32", "inner_steps=20"],
    "meta": ["model=conv4_32", "model.width=8", "task.episodes=2", "task.eval_episodes=2"],
}


def run(device: str, only: str) -> None:
    """Prints a table: median and largest gap of ten outer steps, for each method and task.

    "-" is a pair that is refused, "zero" one whose hypergradient is 0 in float32 and in bfloat16.

    Args:
        device: Option of `bilevel-run`.
        only: Methods whose name contains this.
    """
    print(f"| method | {' | '.join(TASKS)} |\n| --- |{' --- |' * len(TASKS)}")
    for method in names("method"):
        if only in method:
            cells = [_gaps(device, task, method) for task in TASKS]
            print(f"| `{method}` | {' | '.join(cells)} |", flush=True)


def _gaps(device: str, task: str, method: str) -> str:
    chosen = [f"task={task}", f"method={method}", f"device={device}", "device.precision=bf16-mixed"]
    how_long = [f"outer_steps={STEPS}", f"eval_every={STEPS}", "log_every=1"]
    given = [*chosen, *TASKS[task], *how_long, "metrics=precision_gap", "on_divergence=continue"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = bilevel_cli.run(*given, folder=Path(folder) / "run", progress=False).train
        except (UsageError, Failed):
            return "-"
    return told(rows)


def told(rows: pd.DataFrame) -> str:
    """The median and the largest gap of a run, by the rows of its train.csv."""
    if not all(map(math.isfinite, rows["grad_norm"])):
        return "diverged"
    # Where the hypergradient is 0 in float32 too, there is nothing to lose.
    gaps = rows[COLUMN][(rows["grad_norm"] > 0) | (rows[COLUMN] > 0)]
    return f"{gaps.median():.3f}, {gaps.max():.3f}" if len(gaps) else "zero"

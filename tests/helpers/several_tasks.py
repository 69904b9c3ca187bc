"""Runs of several methods on several tasks, as they leave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pages import EVAL_HEADER, run_at

TASKS = {
    "reweight": ("test_accuracy", 0.80, 0.10),
    "meta": ("test_accuracy", 0.30, 0.40),
    "hpo": ("test_loss", 0.9, -0.5),
    "ridge": ("value", 12.0, -8.0),
}
"""For each task its score, what that is at step 0, and how far the best method moves it."""

STRENGTH = {"iaptt": 1.0, "reverse": 0.95, "cg": 0.9, "neumann": 0.7, "darts": 0.5, "none": 0.05}
"""How much of that way a method goes."""


def task_at(
    root: Path,
    task: str,
    method: str,
    finals: Sequence[float],
    start: float = 0.0,
    metric: str = "test_accuracy",
    status: Mapping[int, str] | None = None,
) -> None:
    """Runs of a method on a task, one for each final score, with seeds from 0 on.

    Args:
        root: The folder of all runs.
        task: The option of the group task.
        method: The option of the group method.
        finals: The last of three scores of each run.
        start: The first of them.
        metric: What the score is called.
        status: Those of runs that did not complete, by seed.
    """
    for seed, final in enumerate(finals):
        folder = run_at(
            root / f"{task},{method},seed={seed}",
            (start, (start + final) / 2, final),
            seed=seed,
            status=(status or {}).get(seed, "completed"),
            choices={"method": method, "task": task},
            manifest={"data_sha256": f"{task} {seed}"},
            task={"_target_": f"package.{task.title()}"},
            method={"_target_": f"package.{method.title()}"},
        )
        table = folder / "eval.csv"
        header = EVAL_HEADER.replace("test_accuracy", metric)
        table.write_text(table.read_text().replace(EVAL_HEADER, header, 1))


def four_by_six(root: Path, seeds: int = 5) -> None:
    """Four tasks and six methods: darts diverges on hpo twice, and cg has no run on ridge."""
    random = np.random.default_rng(0)
    for task, (metric, start, way) in TASKS.items():
        common = random.normal(size=seeds)  # what a seed gives to all methods
        for method, strength in STRENGTH.items():
            noise = 0.05 * common + 0.03 * random.normal(size=seeds)
            if (task, method) == ("ridge", "cg"):
                continue
            finals = start + way * (strength + noise)
            diverged = {0: "diverged", 1: "diverged"} if (task, method) == ("hpo", "darts") else {}
            task_at(root, task, method, finals.round(6).tolist(), start, metric, diverged)

"""One seed is one experiment: what methods are given to compare, and what they make of it."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed, options
from runners import runner_in
from torch import Tensor

from bilevel_cli.core.problem import StepData
from bilevel_cli.errors import UsageError
from bilevel_cli.runs.runner import Runner

TASKS = {
    "reweight": ["data=breast_cancer", "data.train=20", "task.batch_size=7"],
    "sinusoid": ["task.episodes=2", "task.eval_episodes=4", "model=mlp_40"],
}
STEPS = 3
pytestmark = pytest.mark.faults  # every method: composing them takes ten seconds


def build(folder: Path, task: str, method: str, seed: int) -> Runner | None:
    """A run of a few steps, or None where the method refuses the task."""
    folder.mkdir(parents=True)
    config = composed(
        *(f"task={task}", *TASKS[task], f"method={method}", f"seed={seed}", "device=cpu"),
        *(f"outer_steps={STEPS}", "inner_steps=2", "log_every=1", "eval_every=3"),
    )
    try:
        return runner_in(config, folder)
    except UsageError:
        return None


def received(runner: Runner) -> list[str]:
    """The digests of the data of every outer step of a run, but for numbers of a method's own."""
    found: list[str] = []
    sample = runner.experiment.task.sample

    def remembered(num_steps: int, generator: torch.Generator) -> StepData:
        data = sample(num_steps, generator)
        if generator is runner.state.random.sampling:
            found.append(digest([data.init, data.inner, data.outer]))
        return data

    runner.experiment.task.sample = remembered  # type: ignore[method-assign]
    runner.run()
    return found


def digest(parts: list[dict[str, Tensor]]) -> str:
    state = hashlib.sha256()
    for part in parts:
        for name, value in sorted(part.items()):
            state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            state.update(value.contiguous().numpy().tobytes())
    return state.hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_every_method_receives_the_same_data_for_one_seed(task: str, tmp_path: Path) -> None:
    by_method = {}
    for method in options("method"):
        runner = build(tmp_path / method, task, method, seed=0)
        if runner is not None:
            by_method[method] = received(runner)
    expected = by_method["reverse"]
    assert len(set(expected)) == STEPS, "other data at every step"
    # The others refuse the task: many have no use for the start that the few-shot tasks learn.
    assert len(by_method) >= len(options("method")) / 3
    assert {name for name, found in by_method.items() if found != expected} == set()
    other = build(tmp_path / "other", task, "reverse", seed=1)
    assert other is not None
    assert not set(received(other)) & set(expected)


@pytest.mark.parametrize("method", options("method"))
def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(method: str, tmp_path: Path) -> None:
    def tables(name: str, seed: int) -> Any:
        runner = build(tmp_path / name, "reweight", method, seed)
        if runner is None:
            pytest.skip(f"{method} refuses the task")
        runner.run()
        timings = ["seconds", "peak_memory_mb"]
        return [
            pd.read_csv(tmp_path / name / file).drop(columns=timings, errors="ignore")
            for file in ("train.csv", "eval.csv")
        ]

    first, again, other = tables("first", 0), tables("again", 0), tables("other", 1)
    for one, two in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert not first[1].equals(other[1])

"""Runs on a GPU whose outer steps are recorded many at a time."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed, small
from replays import rerun
from runners import runner_in
from torch import Tensor
from waits import nobody_waits

import bilevel_cli
from bilevel_cli.core import trees
from bilevel_cli.errors import UsageError
from bilevel_cli.runs import checkpoint, experiment
from bilevel_cli.runs.ahead import Ahead
from bilevel_cli.runs.runner import Runner
from bilevel_cli.vocabulary import CHECKPOINT

pytestmark = pytest.mark.gpu

CHOSEN = ["device=cuda", "device.dtype=float64", "device.deterministic=true", "inner_steps=2"]
GRAPH = "device.capture=cuda_graph"
OTHERS = ["es", "amigo", "saba", "reverse", "srba", "f2sa"]


def run(folder: Path, method: str, steps: int, *more: str, task: str = "quadratic") -> Runner:
    folder.mkdir(exist_ok=True)
    words = [f"task={task}", f"method={method}", *CHOSEN, *small(task), *more]
    config = composed(*words, f"outer_steps={steps}", "log_every=11", "save_every=11")
    runner = runner_in(config, folder)
    runner.run()
    return runner


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "train.csv").drop(columns=["seconds", "peak_memory_mb"])


def numbers(folder: Path) -> list[Tensor]:
    saved = checkpoint.load(folder / CHECKPOINT)
    return trees.leaves((saved["outer"], saved["carry"]))


def assert_alike(one: Path, other: Path, gap: float) -> None:
    """Rows and checkpoints are the same, bit for bit where `gap` is 0."""
    exact: dict[str, Any] = {"check_exact": True} if not gap else {"rtol": gap, "atol": gap}
    pd.testing.assert_frame_equal(rows(one), rows(other), **exact)
    for a, b in zip(numbers(one), numbers(other), strict=True):
        torch.testing.assert_close(a, b, rtol=gap, atol=gap)


def check(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    graph = run(tmp_path / "graph", method, 27, GRAPH, *more)
    assert graph.fusion._fused is not None
    run(tmp_path / "stopped", method, 22, GRAPH, *more)
    run(tmp_path / "stopped", method, 27, GRAPH, *more, "resume=auto")
    assert_alike(tmp_path / "graph", tmp_path / "stopped", 0.0)
    # torch's own optimizers round otherwise than the pure functions of the same steps.
    run(tmp_path / "eager", method, 27, *more)
    assert_alike(tmp_path / "graph", tmp_path / "eager", 1e-11)
    monkeypatch.setattr(experiment, "cuda_graph", lambda fn, device, calls: rerun(fn))
    run(tmp_path / "python", method, 27, GRAPH, *more)
    assert_alike(tmp_path / "graph", tmp_path / "python", 0.0)


def test_a_run_of_recordings_is_that_of_the_same_steps_in_python_also_if_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check("soba", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_a_run_of_recordings_of_other_methods_is_that_of_the_same_steps_in_python(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(method, tmp_path, monkeypatch, "optimizer=adam")


@pytest.mark.slow
def test_replicas_are_recorded_together_and_have_the_numbers_of_each_alone(tmp_path: Path) -> None:
    words = ["task=quadratic", "method=soba", *CHOSEN, *small("quadratic"), GRAPH]
    words += ["outer_steps=24", "log_every=12"]
    bilevel_cli.run(*words, "replicas=2", "seed=3", folder=tmp_path / "both")
    for seed in (3, 4):
        folder = tmp_path / str(seed)
        bilevel_cli.run(*words, f"seed={seed}", folder=folder)
        pd.testing.assert_frame_equal(
            rows(tmp_path / "both" / f"seed={seed}"), rows(folder), rtol=1e-11, atol=1e-11
        )


def test_where_data_cannot_be_drawn_within_a_recording_steps_are_recorded_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "fused", "soba", 12, GRAPH)
    data = Ahead.data

    def waits(ahead: Ahead, one: Any) -> Any:
        found = data(ahead, one)
        trees.leaves(tuple(found))[0].sum().item()
        return found

    monkeypatch.setattr(Ahead, "data", waits)
    with caplog.at_level(logging.INFO):
        single = run(tmp_path / "single", "soba", 12, GRAPH)
    assert single.fusion._fused is None
    assert "The outer steps are taken one by one: CUDA error: operation not perm" in caplog.text
    assert_alike(tmp_path / "single", tmp_path / "fused", 1e-11)


def test_an_estimate_that_waits_is_refused_as_it_is_without_rows_in_between(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs an outer step that never waits for the GPU, got"):
        run(tmp_path / "run", "pseudo_inverse", 12, GRAPH)


def test_no_step_of_a_stretch_waits_for_the_host(tmp_path: Path) -> None:
    runner = run(tmp_path / "run", "soba", 12, GRAPH)
    fused = runner.fusion._fused
    assert fused is not None
    loop, taken = fused._loop, []

    def unwaited(*given: Any) -> Any:
        with nobody_waits():
            taken.append(given[-1])
            return loop(*given)

    fused._loop = unwaited
    with torch.no_grad():
        fused.advance(5)
        fused.advance(5)
    assert sum(taken) >= 2

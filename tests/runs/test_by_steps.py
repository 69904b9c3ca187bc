"""Scores after other numbers of inner steps than training takes: `test_steps`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from configs import small
from runners import built

from bilevel_cli.core import trees
from bilevel_cli.core.method import Estimate
from bilevel_cli.runs import evaluation
from bilevel_cli.runs.checkpoint import load
from bilevel_cli.runs.runner import Runner

TIMINGS = ["seconds", "peak_memory_mb"]
QUADRATIC = ("task=quadratic", "task.noise=0", "device.dtype=float64", "inner_steps=5")
SINUSOID = ("task=sinusoid", "model.width=4", "task.episodes=2", "task.eval_episodes=3")
COUNTS = [0, 1, 2, 4, 5, 6, 8, 12, 20, 40, 200]


def last(folder: Path) -> "pd.Series[float]":
    return pd.read_csv(folder / "eval.csv").iloc[-1]


def test_the_point_at_the_steps_of_a_retraining_is_that_retraining(tmp_path: Path) -> None:
    words = ("start=warm", "retrain=7", "test_steps=[7]", "outer_steps=3", "task.noise=0.1")
    built(tmp_path, *QUADRATIC, *words).run()
    row = last(tmp_path)
    for name in ("loss", "value", "inner_distance"):
        assert row[f"test_steps_7_{name}"] == row[f"retrained_{name}"]
    assert row["test_steps_7_inner_distance"] != row["inner_distance"]


def test_steps_of_gradient_descent_are_scored_where_they_should_be(tmp_path: Path) -> None:
    built(tmp_path, *QUADRATIC, "solver.lr=0.1", "test_steps=[8,0,3,8]", "outer_steps=2").run()
    row = last(tmp_path)
    task: Any = built(tmp_path / "b", *QUADRATIC).experiment.task
    lam = load(tmp_path / "checkpoint.pt")["outer"]["lam"]
    best = torch.linalg.solve(task.hessian, task.coupling @ lam)
    contraction = torch.eye(len(best)) - 0.1 * task.hessian
    names = [name for name in row.index if name.endswith("_inner_distance") and "test" in name]
    assert names == [f"test_steps_{n}_inner_distance" for n in (0, 3, 8)]
    for count in (0, 3, 8):
        error = torch.linalg.matrix_power(contraction, count) @ best  # of a start at zero
        found = row[f"test_steps_{count}_inner_distance"]
        assert found == pytest.approx(float(error.norm() / best.norm()), rel=1e-12)


def test_a_learned_start_is_where_its_solves_begin(tmp_path: Path) -> None:
    runner = built(tmp_path, *QUADRATIC, "start=learned", "test_steps=[0]", "outer_steps=2")
    scores, outer = runner.run(), runner.state.outer
    z, target = outer["init.z"], runner.experiment.task.target  # type: ignore[attr-defined]
    assert scores["test_steps_0_loss"] == pytest.approx(float(0.5 * (z - target).square().sum()))


def test_episodes_are_those_of_the_tasks_own_scores(tmp_path: Path) -> None:
    words = (*SINUSOID, "task.eval_steps=[0,1,10]", "test_steps=[0,1,5,10]", "outer_steps=2")
    built(tmp_path / "sinusoid", *words).run()
    row = last(tmp_path / "sinusoid")
    for count in (0, 1, 10):
        assert row[f"test_steps_{count}_mse"] == row[f"mse_{count}"]
    assert row["test_steps_10_ci95"] == row["ci95"]
    few = ("task=meta", *small("meta"), "outer_steps=1", "task.eval_steps=3", "test_steps=[1,3]")
    built(tmp_path / "meta", *few).run()
    row = last(tmp_path / "meta")
    for name in ("test_accuracy", "test_ci95", "validation_accuracy", "validation_ci95"):
        assert row[f"test_steps_3_{name}"] == row[name]


def test_a_task_that_scores_no_episodes_has_their_mean_outer_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = built(tmp_path, *SINUSOID, "outer_steps=1")
    task, outer = runner.experiment.task, runner.state.outer
    monkeypatch.setattr(type(task), "evaluate_after", lambda *_: {})
    found = evaluation.after_steps(runner.state, [0, 2])
    assert list(found) == ["test_steps_0_loss", "test_steps_2_loss"]
    data = evaluation._drawn(runner.state, outer, 2)
    start = trees.under("init.", outer)
    losses = [
        task.outer_loss(start, outer, {n: x[i] for n, x in data.outer.items()}) for i in range(2)
    ]
    torch.testing.assert_close(found["test_steps_0_loss"], torch.stack(losses).mean())
    assert found["test_steps_2_loss"] < found["test_steps_0_loss"]


def test_a_run_that_asks_for_more_scores_moves_no_other_number(tmp_path: Path) -> None:
    words = (*QUADRATIC, "task.noise=0.1", "outer_steps=4", "log_every=1", "eval_every=2")
    for name, more in (("plain", ()), ("swept", ("test_steps=[0,3]",))):
        built(tmp_path / name, *words, *more).run()
    plain, swept = (load(tmp_path / name / "checkpoint.pt") for name in ("plain", "swept"))
    assert plain["outer"]["lam"].equal(swept["outer"]["lam"])
    for name in ("train.csv", "eval.csv"):
        one, other = (pd.read_csv(tmp_path / folder / name) for folder in ("plain", "swept"))
        columns = [column for column in one if column not in TIMINGS]
        pd.testing.assert_frame_equal(one[columns], other[columns], check_exact=True)


# -------------------------------------------------------- test like you train


def trained(folder: Path, outer_dim: int) -> Runner:
    """An affine problem whose outer parameters minimise F after five inner steps exactly.

    F(z_5(lambda)) is quadratic, so its Hessian is known from hypergradients at unit vectors, and
    one step of Newton's method trains.
    """
    words = ("task._target_=own_tasks.Readout", f"task.outer_dim={outer_dim}", "start=cold")
    runner = built(folder, *QUADRATIC, *words, "solver.lr=0.1", "method=reverse", "seed=1")
    _, data, carry = runner.state.draw()
    zero = torch.zeros(outer_dim, dtype=torch.float64)

    def slope(lam: torch.Tensor) -> torch.Tensor:
        found: Estimate = runner.estimate({"lam": lam}, data, carry)
        return found.grad["lam"]

    hessian = torch.stack(
        [slope(zero + unit) - slope(zero) for unit in torch.eye(outer_dim, dtype=torch.float64)]
    )
    runner.state.outer["lam"].copy_(-torch.linalg.pinv(hessian, rtol=1e-12) @ slope(zero))
    return runner


def losses(runner: Runner) -> Any:
    """F after each number of steps in COUNTS, as an evaluation reports it."""
    found = evaluation.after_steps(runner.state, COUNTS)
    return np.array([float(found[f"test_steps_{count}_loss"]) for count in COUNTS])


def derived(runner: Runner) -> Any:
    """The same by z_n = A^-1 (I - (I - lr A)^n) (B lambda + b)."""
    task: Any = runner.experiment.task
    arrays = (task.hessian, task.coupling, task.offset, task.output, task.goal)
    a, b, offset, output, goal = (one.numpy() for one in arrays)
    force = b @ runner.state.outer["lam"].numpy() + offset
    one = np.eye(len(a))
    powers = (np.linalg.matrix_power(one - 0.1 * a, count) for count in COUNTS)
    solved = (np.linalg.solve(a, (one - power) @ force) for power in powers)
    return np.array([0.5 * np.sum((output @ z - goal) ** 2) for z in solved])


def test_a_model_with_as_many_parameters_as_targets_is_best_at_the_steps_of_its_training(
    tmp_path: Path,
) -> None:
    runner = trained(tmp_path, outer_dim=4)  # and two targets
    change = losses(runner) - losses(runner)[COUNTS.index(5)]
    np.testing.assert_allclose(losses(runner), derived(runner), rtol=1e-9, atol=1e-20)
    assert losses(runner)[COUNTS.index(5)] < 1e-20
    assert COUNTS[int(np.argmin(change))] == 5
    assert (np.delete(change, COUNTS.index(5)) > 1e-6).all()


def test_a_model_with_fewer_parameters_than_targets_may_gain_from_other_steps(
    tmp_path: Path,
) -> None:
    runner = trained(tmp_path, outer_dim=1)
    found = losses(runner)
    np.testing.assert_allclose(found, derived(runner), rtol=1e-9)
    assert found[COUNTS.index(5)] > 1e-3
    assert found.min() < 0.9 * found[COUNTS.index(5)]

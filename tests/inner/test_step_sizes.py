"""The steps of a method follow the step size of its solver, whatever that solver is."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from configs import composed, configured, options
from omegaconf import OmegaConf
from runners import runner_in
from sklearn.datasets import load_digits

from bilevel_cli.config.objects import parts
from bilevel_cli.errors import UsageError

STEP, ELSEWHERE = 0.01234, 0.4321
# How a step size is set, by solver.
SOLVERS = {
    "gd": f"solver.lr={STEP}",
    "momentum": f"solver.lr={STEP}",
    "adam": f"solver.lr={STEP}",
    "adamw": f"solver.base.lr={STEP}",
    "weight_decay": f"solver.base.lr={STEP}",
    "projected": f"solver.base.lr={STEP}",
    "bda": f"solver.base.lr={STEP}",
    "gd_decay": f"solver.lr.initial={STEP}",
    "gd_learned_lr": f"solver.lr.initial={STEP}",
    "momentum_learned": f"solver.lr.initial={STEP}",
    "meta_sgd": f"solver.lr={STEP}",
    "langevin": f"solver.lr={STEP}",
    "lbfgs": f"solver.lr={STEP}",
    "sam": f"solver.base.lr={STEP}",
}
FOLLOWING = {
    *("neumann", "stocbio", "bsa", "ttsa", "amigo", "soba", "saba", "fsla"),
    *("mrbo", "sustain", "srba", "vrbo", "galet", "g_pbgd", "bvfsm"),
}


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [number for value in tree.values() for number in numbers(value)]
    return [tree] if isinstance(tree, float) else []


def method_of(*overrides: str) -> dict[str, Any]:
    config = configured("task=quadratic", *overrides, f"suggest.inner_lr={ELSEWHERE}")
    resolved = OmegaConf.to_container(config.method, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


@pytest.mark.parametrize("method", options("method"))
def test_no_setting_of_a_method_is_the_suggestion_where_the_solver_has_another(method: str) -> None:
    found = numbers(method_of(f"method={method}", "solver=gd", f"solver.lr={STEP}"))
    assert ELSEWHERE not in found
    assert (found.count(STEP) == 1) == (method in FOLLOWING)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_size_is_found_in_every_kind_of_solver(solver: str) -> None:
    assert STEP in numbers(method_of("method=neumann", f"solver={solver}", SOLVERS[solver]))


def test_the_step_size_of_a_solver_in_a_solver_in_a_solver_is_found() -> None:
    deep = ("solver=weight_decay", "solver@solver.base=projected", f"solver.base.base.lr={STEP}")
    assert STEP in numbers(method_of("method=neumann", *deep))


def test_every_solver_has_a_step_size_that_a_method_can_follow() -> None:
    for solver in options("solver"):
        config = composed("task=quadratic", "method=neumann", f"solver={solver}")
        step = OmegaConf.to_container(config.method, resolve=True)["linear_solver"]["step_size"]  # type: ignore[call-overload, index]
        assert step in numbers(OmegaConf.to_container(config.solver, resolve=True))


def test_a_preset_that_suggests_a_step_size_sets_that_of_its_method() -> None:
    config = composed("experiment=benchmark_ijcnn1_stocbio")
    assert config.solver.lr == config.method.series.step_size == 0.25


def test_ten_times_larger_inputs_need_the_step_of_the_solver_alone(tmp_path: Path) -> None:
    # The curvature is a hundred times that of inputs in [0, 1], for which 1.0 is suggested.
    x, y = load_digits(return_X_y=True)
    np.savez(tmp_path / "digits.npz", x=(x[:180] / 1.6).astype(np.float32), y=y[:180])
    shared = (
        *("task=reweight", "data=npz", f"data.path={tmp_path}/digits.npz", "device=cpu"),
        *("method=neumann", "solver.lr=0.01", "outer_steps=1", "log_every=1", "inner_steps=50"),
    )

    def row(name: str, *overrides: str) -> "pd.Series[float]":
        config = configured(*shared, *overrides)
        runner = runner_in(config, tmp_path / name)
        runner.run()
        rows = pd.read_csv(runner.rows.train.path)
        return rows.drop(columns=["seconds", "peak_memory_mb"]).iloc[0]

    (tmp_path / "followed").mkdir()
    (tmp_path / "by_hand").mkdir()
    followed = row("followed")
    pd.testing.assert_series_equal(
        followed, row("by_hand", "method.linear_solver.step_size=0.01"), rtol=0, atol=0
    )
    assert followed["adjoint_residual"] < 1


def test_a_number_for_a_step_size_that_falls_names_the_settings_behind_it() -> None:
    config = composed("task=quadratic", "method=soba", "solver.lr=0.01")
    with pytest.raises(UsageError, match=r"got 0.01. Set solver.lr.initial, solver.lr.exponent\."):
        parts(config, {})

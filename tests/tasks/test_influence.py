"""Influence: closed forms of a toy, a library that trains without the row, and the files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import estimate, seeded
from runners import built
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from test_hyper_cleaning import Blobs
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.models import LinearNoBias
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.reweighting.influence import Influence
from bilevel_cli.tasks.reweighting.noise import NoNoise
from bilevel_cli.tasks.reweighting.removal import Outers, Removal
from bilevel_cli.tasks.reweighting.scores import rank_correlation

CPU, N, LAM = torch.device("cpu"), 20, 0.5


class Product(OutputLoss):
    """f(z) = mean_i w_i (u - y_i)^2 / 2 and F = u, with the prediction u = ab of z = (a, b).

    Its Gauss-Newton matrix is vv', v = (b, a): of rank one, singular without damping.
    """

    def __init__(self, y: Tensor) -> None:
        self.y = y

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["z"].prod()

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        return 0.5 * ((1 + outer["effects"]) * (outputs - self.y).square()).mean()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["z"].prod()


def test_the_toy_of_rank_one_has_its_closed_forms() -> None:
    y = torch.randn(N, generator=seeded(7)) + 1
    problem, outer = Product(y), {"effects": torch.zeros(N)}
    data = StepData({"z": torch.tensor([1.8, 0.4])}, {"unused": torch.zeros(90)}, {})
    loop, removal = InnerLoop(problem, GradientDescent(0.4), Cold()), Removal(LAM, at_once=11)
    one_by_one = -torch.eye(N)

    def predicted(solver: Exact) -> Tensor:
        method = Implicit(solver, False, "gauss_newton", None)
        return -estimate(method, problem, data, outer, solver=loop.solver).grad["effects"]

    ends = removal.retrained(
        loop, Outers(outer, {"effects": torch.cat([0 * y[None], one_by_one])}), data
    )
    centre = {"z": ends["z"][0]}
    left, unsolved = removal.responses(loop, Outers(outer, {"effects": one_by_one}), data, centre)
    shift, size = y.mean() - y, float(centre["z"].square().sum())

    def assert_is(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)

    assert_is(centre["z"].prod(), y.mean())
    assert_is(predicted(Exact(0.0, 1e-6)), shift / N)  # of the pseudo-inverse
    assert_is(predicted(Exact(LAM, None)), shift / N * size / (size + LAM))
    assert_is(ends["z"][1:].prod(1) - ends["z"][0].prod(), shift / (N - 1))  # leave one out
    pbrf = torch.tensor([response(centre["z"], float(one)) for one in y])
    assert_is(left["z"].prod(1) - centre["z"].prod(), pbrf)
    assert float(unsolved) < 1e-8
    # The response is bent: it lies between its linearisation and the pseudo-inverse.
    linear = (shift / N * size / (size + LAM)).abs()
    assert bool(((linear < pbrf.abs()) & (pbrf.abs() < (shift / N).abs()))[shift < 0].all())


def test_the_toy_has_the_figures_that_were_computed_for_one_draw() -> None:
    # The first two figures tell mean(y) - y_0 and |z*|^2 = 4.433 of the draw, and the last one that
    # u* is between 1.17 and 1.5. The point z* = (2, 0.658) is such a one.
    centre, shift = torch.tensor([2.0, 0.658]), -0.014404 * N
    y = centre.prod() + torch.tensor([-shift, *[shift / (N - 1)] * (N - 1)])
    problem, outer = Product(y), {"effects": torch.zeros(N)}
    without = {"effects": -torch.eye(N)[:1]}
    data = StepData({"z": centre}, {"unused": torch.zeros(150)}, {})
    loop, removal = InnerLoop(problem, GradientDescent(0.3), Cold()), Removal(LAM, at_once=1)
    found = [
        -estimate(Implicit(solver, False, "gauss_newton", None), problem, data, outer).grad[
            "effects"
        ][0]
        for solver in (Exact(0.0, 1e-6), Exact(LAM, None))
    ]
    ends = removal.retrained(loop, Outers(outer, without), data)
    near, _ = removal.responses(loop, Outers(outer, without), data, {"z": centre})
    found += [z["z"][0].prod() - centre.prod() for z in (ends, near)]
    expected = torch.tensor([-0.014404, -0.012944, -0.015162, -0.013549])
    torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-6)


def response(centre: Tensor, y: float) -> float:
    """The change of u at the minimiser of (u - u*)^2 / 2 - (u - y)^2 / 2n + lam / 2 |z - z*|^2."""
    star = centre.numpy()

    def slope(z: Any) -> Any:
        u = z[0] * z[1]
        residual = (u - star.prod()) - (u - y) / N
        return residual * z[::-1] + LAM * (z - star)

    found = optimize.root(slope, star, tol=1e-14)
    assert np.abs(slope(found.x)).max() < 1e-12
    return float(found.x.prod() - star.prod())


def influence(**changes: Any) -> Influence:
    settings: dict[str, Any] = {
        "noise": NoNoise(),
        "rows": 12,
        "largest": False,
        "validation_row": None,
        "damping": 0.0,
        "steps": 150,
        "at_once": 13,
        "batch_size": None,
        "outer_batch_size": None,
        "l2": 0.2,
        **changes,
    }
    data = Blobs(60, 60, 60)
    return Influence(**settings, data=data, model=LinearNoBias, device=CPU, generator=seeded())


def loop_of(task: Influence) -> InnerLoop:
    return InnerLoop(task, GradientDescent(0.3), Cold())


def predicted(task: Influence) -> Params:
    """Outer parameters after the one step of length 1 from zero."""
    data, outer = task.sample(task.steps, seeded()), task.init_outer(seeded())
    found = estimate(
        Implicit(Exact(0.0, None), False, "hessian", None),
        task,
        data,
        outer,
        solver=loop_of(task).solver,
    )
    return {name: value - found.grad[name] for name, value in outer.items()}


def test_retraining_is_what_a_library_finds_without_the_row() -> None:
    task = influence()
    outer = predicted(task)
    found = task.effects(loop_of(task), outer)
    x, y = task.train.x.numpy(), task.train.y.numpy()
    judged = task.validation.x.numpy(), task.validation.y.numpy()

    def loss(rows: Any) -> float:
        # C weighs the sum of losses against |w|^2 / 2; ours is (sum of losses) / 60 + l2 |w|^2.
        settings = {"C": 1 / (2 * task.l2 * 60), "fit_intercept": False, "tol": 1e-12}
        fitted = LogisticRegression(**settings, max_iter=10_000).fit(x[rows], y[rows])
        logs = fitted.predict_log_proba(judged[0])
        return float(-logs[np.arange(60), judged[1]].mean())

    every = np.arange(60)
    expected = [loss(np.delete(every, row)) - loss(every) for row in task.rows.numpy()]
    torch.testing.assert_close(found.retrained, torch.tensor(expected), rtol=1e-4, atol=1e-9)
    # A linear model: predictions and responses differ from it by order 1 / n.
    assert rank_correlation(found.predicted, found.retrained) > 0.95
    assert rank_correlation(found.pbrf, found.retrained) > 0.95
    assert float(found.unsolved) < 1e-6


def test_predictions_are_the_responses_to_first_order() -> None:
    gaps = []
    for share in (1.0, 0.1):
        task = influence(rows=6)
        outer, loop = predicted(task), loop_of(task)
        data = task.sample(task.steps, seeded())
        without = -share * torch.nn.functional.one_hot(task.rows, 60).to(torch.get_default_dtype())
        whole = {"effects": torch.zeros(60)}
        both = torch.cat([whole["effects"][None], without])
        ends = task.removal.retrained(loop, Outers(whole, {"effects": both}), data)
        centre = {name: value[0] for name, value in ends.items()}
        found, _ = task.removal.responses(loop, Outers(whole, {"effects": without}), data, centre)
        losses = [
            task.outer_loss({n: v[i] for n, v in found.items()}, whole, data.outer)
            for i in range(6)
        ]
        changes = torch.stack(losses) - task.outer_loss(centre, whole, data.outer)
        gaps.append((changes / share - outer["effects"][task.rows]).norm())
    # The gap is of second order: a tenth of the removal leaves a tenth of it.
    assert gaps[1] < 0.15 * gaps[0]


def test_a_prediction_of_one_validation_row_is_judged_alone() -> None:
    task = influence(validation_row=3)
    data, outer = task.sample(1, seeded()), task.init_outer(seeded())
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    whole = {"x": task.validation.x, "y": task.validation.y}
    found = task.outer_loss(inner, outer, data.outer)
    torch.testing.assert_close(found, task.losses(inner, whole)[3])
    with pytest.raises(ValueError, match="validation_row from 0 to 59, got validation_row=60"):
        influence(validation_row=60)


def test_rows_are_those_of_largest_prediction_where_that_is_asked_for() -> None:
    task = influence(rows=4, largest=True)
    outer = {"effects": torch.zeros(60)}
    outer["effects"][[7, 30, 31, 59]] = torch.tensor([0.1, -0.4, 0.3, -0.2])
    assert task.chosen(outer).tolist() == [30, 31, 59, 7]
    assert influence(rows=1000).chosen(outer).sort().values.tolist() == list(range(60))


def test_ranks_of_equal_numbers_are_shared_and_of_equal_ones_alone_say_nothing() -> None:
    x, y = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([3.0, 4.0, 9.0, 9.0])
    # Ranks (1, 2.5, 2.5, 4) and (1, 2, 3.5, 3.5): covariance 15/4, variances 9/2 and 9/2.
    torch.testing.assert_close(rank_correlation(x, y), torch.tensor(15 / 4 / (9 / 2)))
    assert rank_correlation(x, torch.ones(4)) == 0


def test_a_run_writes_what_it_predicted_and_found(tmp_path: Path) -> None:
    run = built(
        tmp_path,
        *("task=influence", "method=exact", "data=breast_cancer", "data.train=60", "model=linear"),
        *("device.dtype=float64", "task.rows=8", "inner_steps=60", "task.l2=0.5"),
        "solver.lr=0.3",
    )
    scores = run.run()
    with torch.enable_grad():  # as in a command
        files = {path.name: pd.read_csv(path) for path in run.result()}
    table, weights = files["influence.csv"], files["weights.csv"].set_index("index")
    assert list(table) == ["index", "predicted", "pbrf", "retrained", "label"]
    assert len(table) == 8
    assert table["predicted"].is_monotonic_increasing
    every = weights.loc[table["index"], "weight"].to_numpy() - 1
    np.testing.assert_allclose(table["predicted"], every, rtol=0, atol=1e-12)
    for name in ("retrained", "pbrf"):
        found = table["predicted"].corr(table[name], method="spearman")
        assert scores[f"rank_correlation_{name}"] == pytest.approx(found)
        assert found > 0.9

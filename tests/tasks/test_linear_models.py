"""Ridge and logistic regression, whose penalties are learned, and their exact scores."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from problems import central_difference, mean_over_blocks, seeded, simulated
from runners import built, runner_in
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold

CPU = torch.device("cpu")
KINDS = ["logistic", "ridge"]


def penalties(option: str, **changes: Any) -> Any:
    """The task of that option, on the data that it suggests."""
    config = composed(f"task={option}", *(f"task.{name}={v}" for name, v in changes.items()))
    given = {"device": CPU, "generator": seeded(), "data": instantiate(config.data)}
    return instantiate(config.task, **given)


def somewhere(task: Any) -> tuple[Params, Params]:
    count = task.sample(1, seeded()).init["weight"].shape
    return {"weight": torch.randn(count)}, {"log_l2": 0.5 * torch.randn(count) - 2}


@pytest.mark.parametrize("option", KINDS)
def test_the_losses_of_linear_models_are_their_formulas(option: str) -> None:
    task = penalties(option)
    (inner, outer), data = somewhere(task), task.sample(1, seeded())
    w, l2 = inner["weight"], outer["log_l2"].exp()

    def formula(batch: Any) -> Tensor:
        x, y = batch["x"], batch["y"]
        if option == "ridge":
            return 0.5 * ((x @ w - y) ** 2).mean()
        assert y.unique().tolist() == [-1, 1]
        return torch.log(1 + torch.exp(-y * (x @ w))).mean()

    penalty = 0.5 * (l2 * w**2).sum()
    found = task.inner_loss(inner, outer, data.inner_at(0))
    torch.testing.assert_close(found, formula(data.inner_at(0)) + penalty, rtol=1e-12, atol=0)
    found = task.outer_loss(inner, outer, data.outer)
    torch.testing.assert_close(found, formula(data.outer), rtol=1e-12, atol=0)


@pytest.mark.parametrize("option", KINDS)
def test_newton_finds_where_the_inner_gradient_vanishes(option: str) -> None:
    task = penalties(option)
    _, outer = somewhere(task)
    for log_l2 in (outer["log_l2"], outer["log_l2"] - 8, torch.zeros_like(outer["log_l2"])):
        outer = {"log_l2": log_l2}
        batch = task.sample(1, seeded()).inner_at(0)
        best, hessian = task.solve(log_l2.exp(), batch)
        slope = autodiff.grad(task.inner_loss)({"weight": best}, outer, batch)["weight"]
        assert slope.norm() < 1e-7
        # The Hessian by central differences of the gradient: error of order 1e-10.
        columns = [
            autodiff.grad(task.inner_loss)({"weight": best + step}, outer, batch)["weight"]
            - autodiff.grad(task.inner_loss)({"weight": best - step}, outer, batch)["weight"]
            for step in 1e-5 * torch.eye(len(best))
        ]
        torch.testing.assert_close(torch.stack(columns) / 2e-5, hessian, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("option", [*KINDS, "simulated"])
def test_the_scores_are_those_of_the_solution_that_claims_find(option: str) -> None:
    if option == "simulated":
        task: Any = simulated(batch_size=None, outer_batch_size=None)
        inner, outer = {"z": torch.randn(6)}, {"x": torch.randn(3)}
    else:
        task = penalties(option)
        inner, outer = somewhere(task)
    loop, data = InnerLoop(task, GradientDescent(0.1), Cold()), task.sample(1, seeded())
    trial = Trial(loop, outer, data, {"inner": loop.fresh(outer, data)}, inner)
    best, exact = references.minimiser(trial), references.solution(trial)
    scores = task.evaluate(loop, outer, inner)
    # Dense matrices of central differences, whose error is of order 1e-9.
    value = task.outer_loss(best, outer, data.outer)
    torch.testing.assert_close(scores["value"], value, rtol=1e-7, atol=0)
    norm2 = trees.dot(exact, exact)
    torch.testing.assert_close(scores["hypergradient_norm2"], norm2, rtol=1e-6, atol=0)
    gap = trees.axpy(-1.0, best, inner)
    torch.testing.assert_close(scores["inner_distance2"], trees.dot(gap, gap), rtol=1e-6, atol=0)

    def value_function(outer: Params) -> Tensor:
        return task.evaluate(loop, outer, inner)["value"]

    slope = central_difference(value_function, outer, 1e-4)
    torch.testing.assert_close(slope, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("option", KINDS)
def test_the_mean_over_minibatches_of_a_linear_model_is_the_full_batch(option: str) -> None:
    # Neither divides: 200 and 150 examples of breast_cancer, 150 and 150 of diabetes.
    task, full = penalties(option, batch_size=40, outer_batch_size=64), penalties(option)
    if option == "ridge":
        assert task.blocks == (4, 3)
    assert full.blocks == (1, 1)
    (inner, outer), data = somewhere(task), full.sample(1, seeded())
    f, F = mean_over_blocks(task, inner, outer)
    expected = full.inner_loss(inner, outer, data.inner_at(0))
    torch.testing.assert_close(f, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(F, full.outer_loss(inner, outer, data.outer), rtol=1e-12, atol=0)
    # The scores are of all examples, whatever the minibatches.
    loop = InnerLoop(task, GradientDescent(0.1), Cold())
    assert task.evaluate(loop, outer, inner) == full.evaluate(loop, outer, inner)


def test_scores_of_the_inner_iterate_are_losses_and_accuracies() -> None:
    task = penalties("logistic")
    inner, outer = somewhere(task)
    scores = task.evaluate(InnerLoop(task, GradientDescent(0.1), Cold()), outer, inner)
    for part in ("validation", "test"):
        x, y = task.examples[part]["x"], task.examples[part]["y"]
        right = ((x @ inner["weight"] >= 0).double() * 2 - 1 == y).double().mean()
        assert scores[f"{part}_accuracy"] == right
    assert scores["validation_loss"] == task.outer_loss(
        inner, outer, task.sample(1, seeded()).outer
    )
    assert "test_accuracy" not in penalties("ridge").evaluate(
        InnerLoop(task, GradientDescent(0.1), Cold()), *reversed(somewhere(penalties("ridge")))
    )


def test_a_linear_model_starts_at_zero_or_at_random() -> None:
    task = penalties("logistic")
    assert not task.init_outer(seeded())["log_l2"].any()
    assert not task.sample(1, seeded()).init["weight"].any()
    task, again = penalties("logistic", start="random"), penalties("logistic", start="random")
    weight = task.sample(1, seeded()).init["weight"]
    assert torch.equal(weight, again.sample(1, seeded(5)).init["weight"])
    assert 0.5 < weight.std() < 1.5
    l2 = task.init_outer(seeded())["log_l2"].exp()
    assert 0 < l2.min() < l2.max() < 1
    with pytest.raises(InstantiationException, match="start to be one of zeros, random, got s"):
        penalties("logistic", start="sideways")
    with pytest.raises(InstantiationException, match="RidgeRegression needs batch_size from 1 to"):
        penalties("ridge", batch_size=151)


def test_the_penalties_are_written_with_the_weights(tmp_path: Path) -> None:
    task = penalties("ridge")
    inner, outer = somewhere(task)
    (path,) = task.save_result(tmp_path, outer, inner)
    table = pd.read_csv(path)
    assert path.name == "hyperparameters.csv"
    assert table.columns.tolist() == ["feature", "log_l2", "l2", "weight"]
    assert table["feature"].tolist() == list(range(10))
    assert table["l2"].tolist() == pytest.approx(outer["log_l2"].exp().tolist(), rel=1e-12)
    assert table["weight"].tolist() == pytest.approx(inner["weight"].tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ("logistic", "diabetes", "Use data=breast_cancer, data=ijcnn1."),
        ("logistic", "digits", "Use data=breast_cancer, data=ijcnn1."),
        ("ridge", "breast_cancer", "Use data=diabetes."),
        ("reweight", "diabetes", "task=reweight needs other data than data=diabetes. Use data="),
    ],
)
def test_data_of_another_kind_are_refused_with_those_that_fit(
    task: str, data: str, message: str, tmp_path: Path
) -> None:
    config = composed(f"task={task}", f"data={data}")
    with pytest.raises(UsageError, match=message):
        runner_in(config, tmp_path, {"task": task, "data": data})


# Ridge regression is well-conditioned where its outer loss is least. Logistic regression is not,
# and 50 steps of reverse mode are then the hypergradient of a coarser problem.
@pytest.mark.parametrize(
    ("task", "method", "factor"),
    [
        pytest.param("ridge", "reverse", 100, marks=pytest.mark.slow),
        ("ridge", "cg", 100),
        pytest.param("logistic", "cg", 100, marks=pytest.mark.slow),
    ],
)
def test_the_suggested_settings_solve_a_linear_model(
    task: str, method: str, factor: float, tmp_path: Path
) -> None:
    built(tmp_path, f"task={task}", f"method={method}").run()
    scores = pd.read_csv(tmp_path / "eval.csv")
    norm2, value = scores["hypergradient_norm2"], scores["value"]
    assert norm2.iloc[-1] < norm2.iloc[0] / factor
    assert value.iloc[-1] < value.iloc[0]

"""Auxiliary targets: what their losses are, what is learned of them, and how they bargain."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed, options
from data_files import message
from hydra.utils import instantiate
from problems import central_difference, estimate, mean_over_blocks, seeded
from runners import built

from bilevel_cli.checks.verdict import check
from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import follows_loss
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Labelled
from bilevel_cli.data.planted_targets import PlantedTargets
from bilevel_cli.data.several_targets import SeveralTargets
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.models import LinearNoBias, Mlp
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.auxiliary.auxiliary import Auxiliary
from bilevel_cli.tasks.auxiliary.combination import NashBargain, WeightedSum

NASH = NashBargain(newton_steps=15, floor=0.0, least=1e-4)
PLANTED: dict[str, Any] = {
    "weights": [[1.0, 1.0], [1.0, 1.0], [-1.0, -4.0]],
    "noise": [5.0, 0.25, 0.25],
    "names": ["main", "helpful", "harmful"],
    **{"train": 50, "validation": 40, "test": 30},
}


class Classes(SeveralTargets):
    """A target of three classes, one of two, and a real number."""

    def __init__(self) -> None:
        super().__init__(12, 6, 4)
        self.target_names, self.class_counts = ["kind", "side", "size"], [3, 2, None]

    def read(self) -> tuple[Labelled, None]:
        x = torch.randn(22, 5, generator=seeded(3))
        y = torch.stack([torch.arange(22) % 3, torch.arange(22) % 2, x[:, 0]], 1)
        return Labelled(x, y, torch.arange(22)), None


def planted(combination: Any = None, seed: int = 0, **changes: Any) -> Auxiliary:
    """The regression of three planted targets, small."""
    settings = {"one_output": None, "batch_size": None, "outer_batch_size": None, **changes}
    where = {"device": torch.device("cpu"), "generator": seeded(seed)}
    given: dict[str, Any] = {"data": PlantedTargets(**PLANTED), "model": LinearNoBias}
    given |= settings | where
    return Auxiliary(combination or WeightedSum(), **given)


def classified(combination: Any = None) -> Auxiliary:
    model = partial(Mlp, width=4, depth=1, activation="tanh")
    return planted(combination, data=Classes(), model=model)


def somewhere(task: Auxiliary) -> tuple[Params, Params]:
    inner = {n: torch.randn(x.shape) for n, x in task.sample(1, seeded()).init.items()}
    return inner, {"preference": torch.tensor([0.5, 0.2, 0.3])}


def test_losses_are_squared_errors_of_one_output_and_the_main_one_counts() -> None:
    task = planted()
    (inner, outer), data = somewhere(task), task.sample(1, seeded())
    batch = data.inner_at(0)
    output = batch["x"] @ inner["head.weight"][0]
    expected = torch.stack([((output - batch["y"][:, k]) ** 2).mean() for k in range(3)])
    torch.testing.assert_close(task.losses(inner, batch), expected, rtol=1e-12, atol=0)
    weighted = 0.5 * expected[0] + 0.2 * expected[1] + 0.3 * expected[2]
    found = task.inner_loss(inner, outer, batch)
    torch.testing.assert_close(found, weighted, rtol=1e-12, atol=0)
    x, y = data.outer["x"], data.outer["y"]
    assert len(y) == 40
    expected = ((x @ inner["head.weight"][0] - y[:, 0]) ** 2).mean()
    torch.testing.assert_close(task.outer_loss(inner, outer, data.outer), expected)


def test_classes_and_numbers_have_outputs_of_their_own() -> None:
    task = classified()
    (inner, _), batch = somewhere(task), task.sample(1, seeded()).inner_at(0)
    output = task.model.apply(inner, batch["x"])
    y = batch["y"]
    assert output.shape == (12, 6)
    expected = [
        torch.nn.functional.cross_entropy(output[:, :3], y[:, 0].long()),
        torch.nn.functional.cross_entropy(output[:, 3:5], y[:, 1].long()),
        (output[:, 5] - y[:, 2]).square().mean(),
    ]
    torch.testing.assert_close(task.losses(inner, batch), torch.stack(expected))
    scores = task.evaluate(
        InnerLoop(task, GradientDescent(0.1), Cold()), *reversed(somewhere(task))
    )
    assert list(scores)[:2] == ["test_loss", "test_accuracy"]
    assert "distance" not in scores


@pytest.mark.parametrize("combination", [WeightedSum(), NASH])
def test_the_mean_over_minibatches_is_the_full_batch(combination: Any) -> None:
    task, full = (
        planted(combination, **sizes) for sizes in ({"batch_size": 8, "outer_batch_size": 9}, {})
    )
    assert task.blocks == (7, 5)
    (inner, outer), data = somewhere(task), full.sample(1, seeded())
    f, F = mean_over_blocks(task, inner, outer)
    torch.testing.assert_close(F, full.outer_loss(inner, outer, data.outer), rtol=1e-12, atol=0)
    if combination.descends:  # a bargain is struck anew on each minibatch
        expected = full.inner_loss(inner, outer, data.inner_at(0))
        torch.testing.assert_close(f, expected, rtol=1e-12, atol=0)


def closed_form(task: Auxiliary, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares on the weighted target, and the gradient of F there in the preferences."""
    data = task.sample(1, seeded())
    (x, y), (held, main) = ((part["x"], part["y"]) for part in (data.inner_at(0), data.outer))
    A = x.T @ x
    w = torch.linalg.solve(A, x.T @ (y @ p)) / p.sum()
    # A w = X'(Y p) / sum p, differentiated in p_k.
    moved = torch.linalg.solve(A, x.T @ (y - (x @ w)[:, None])) / p.sum()
    slope = 2 * held.T @ (held @ w - main[:, 0]) / len(held)
    return w, moved.T @ slope


def test_the_hypergradient_of_least_squares_is_its_closed_form() -> None:
    task = planted()
    _, outer = somewhere(task)
    _, expected = closed_form(task, outer["preference"])
    data = task.sample(200, seeded())  # the curvature is near 2: each step leaves 0.6
    found = estimate(Reverse(None, None), task, data, outer, solver=GradientDescent(0.2))
    torch.testing.assert_close(found.grad["preference"], expected, rtol=1e-9, atol=1e-12)


def test_a_harmful_target_loses_its_say(tmp_path: Path) -> None:
    run = ["task=auxiliary", "method=cg", "outer_steps=20", "optimizer.lr=0.05", "inner_steps=10"]
    runner = built(tmp_path, *run)
    scores = runner.run()
    assert scores["preference.harmful"] < 0.05
    # Equal weights: the mean of the planted weights is (1/3, -2/3), 1.795 away from (1, 1).
    first = pd.read_csv(tmp_path / "eval.csv").iloc[0]
    assert first["preference.main"] == pytest.approx(1 / 3)
    assert scores["distance"] < 0.5
    table = pd.read_csv(next(path for path in runner.result() if path.suffix == ".csv"))
    assert table.columns.tolist() == ["target", "preference"]
    assert table["target"].tolist()[2] == "harmful"
    assert table["preference"].sum() == pytest.approx(1)


def test_preferences_stay_on_the_simplex_and_above_what_a_bargain_needs() -> None:
    p = {"preference": torch.tensor([2.0, -1.0, 0.5]), "log_lr": torch.tensor(-3.0)}
    found = planted().project_outer(p)
    torch.testing.assert_close(found["preference"], torch.tensor([1.0, 0.0, 0.0]))
    assert found["log_lr"] == -3
    least = planted(NASH).project_outer(p)["preference"]
    torch.testing.assert_close(least, torch.tensor([1 - 2e-4, 1e-4, 1e-4]))
    again = planted(NASH).project_outer({"preference": least})["preference"]
    torch.testing.assert_close(again, least, rtol=1e-12, atol=0)


# --- Nash -----------------------------------------------------------------------------------------


def test_a_nash_step_has_length_one_and_is_the_gradient_at_its_weights() -> None:
    for task in (planted(NASH), classified(NASH)):
        (inner, outer), batch = somewhere(task), task.sample(1, seeded()).inner_at(0)
        step = task.inner_field(inner, outer, batch)
        length = torch.cat([part.flatten() for part in step.values()]).norm()
        torch.testing.assert_close(length, torch.ones(()), rtol=1e-9, atol=0)
        slope = autodiff.grad(task.inner_loss)(inner, outer, batch)
        torch.testing.assert_close(slope, step, rtol=1e-9, atol=1e-12)
        assert not follows_loss(task)
    assert follows_loss(planted())


def test_a_nash_step_does_not_depend_on_the_units_of_losses() -> None:
    task = classified(NASH)
    (inner, outer), batch = somewhere(task), task.sample(1, seeded()).inner_at(0)
    losses, units = partial(task.losses, batch=batch), torch.tensor([1.0, 1e3, 1e-2])
    p = outer["preference"]
    one = NASH.direction(losses, inner, p)
    other = NASH.direction(lambda z: units * losses(z), inner, p)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-8, atol=1e-12)


def test_with_a_floor_a_bargain_comes_to_rest_at_weights_sqrt_p() -> None:
    task = planted(NashBargain(newton_steps=15, floor=1e-2, least=1e-4))
    _, outer = somewhere(task)
    w, _ = closed_form(task, outer["preference"].sqrt())
    inner, batch = {"head.weight": w[None]}, task.sample(1, seeded()).inner_at(0)
    step = task.inner_field(inner, outer, batch)["head.weight"]
    assert step.norm() < 1e-9


@pytest.mark.parametrize("steps", [1, 3])
def test_the_hypergradient_of_nash_steps_is_that_of_differences(steps: int) -> None:
    for task in (planted(NASH), classified(NASH)):
        _, outer = somewhere(task)
        data = task.sample(steps, seeded())
        solver = GradientDescent(0.1)
        found = estimate(Reverse(None, None), task, data, outer, solver=solver).grad
        loop = InnerLoop(task, solver, Cold())

        def value(outer: Params, task: Any = task, data: Any = data, loop: Any = loop) -> Any:
            state = loop.begin(outer, data, loop.fresh(outer, data))
            for t in range(data.num_steps):
                state = loop.step(state, outer, data, t)
            return task.outer_loss(state["inner"], outer, data.outer)

        expected = central_difference(value, outer)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


SOME = ("reverse", "cg", "f2sa")


@pytest.mark.parametrize(
    "method",
    [
        *SOME,
        *(pytest.param(m, marks=pytest.mark.slow) for m in options("method") if m not in SOME),
    ],
)
def test_every_method_is_right_or_refuses_a_bargain(method: str) -> None:
    config = composed("task=quadratic", f"method={method}", "device=cpu", "device.dtype=float64")
    # Without a floor a bargain has no root, of which implicit methods could make a claim; and with
    # targets far apart the solver comes near it only after thousands of steps.
    alike = {"weights": [[1.0, 1.0], [1.0, 1.0], [0.5, 0.6]], "noise": [0.3, 0.1, 0.1]}
    bargain = NashBargain(newton_steps=6, floor=1.0, least=1e-4)
    task = planted(bargain, data=PlantedTargets(**{**PLANTED, **alike}))
    loop = InnerLoop(task, GradientDescent(0.1), Warm())
    found = check(instantiate(config.method), loop, task, 4, seed=0)
    assert found.verdict == "ok" or (found.verdict == "refused" and "method=" in found.reason), (
        found
    )


def test_a_target_without_a_gradient_leaves_a_finite_step() -> None:
    task = planted(NashBargain(newton_steps=15, floor=1e-12, least=1e-4))
    batch = {n: x[:5] for n, x in task.sample(1, seeded()).inner_at(0).items() if n != "block"}
    inner = {"head.weight": torch.ones(1, 2)}
    batch["y"][:, 1] = batch["x"].sum(1)  # exact: its gradient is zero
    step = task.inner_field(inner, somewhere(task)[1], batch)["head.weight"]
    assert step.isfinite().all()
    assert 0 < step.norm() <= 1


# --- what is refused ------------------------------------------------------------------------------


def test_a_model_without_shared_parameters_is_refused() -> None:
    found = message(lambda: planted(data=Classes()))
    assert "'kind' has its own: no other target could help it. Use model=mlp" in found


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: NashBargain(0, 0.0, 1e-4), "newton_steps >= 1"),
        (lambda: NashBargain(5, -1.0, 1e-4), "finite floor >= 0"),
        (lambda: NashBargain(5, 0.0, 0.0), "least above 0"),
        (lambda: planted(NashBargain(5, 0.0, 0.5)), r"needs least \* 3 targets < 1"),
        (lambda: planted(data=Classes(), one_output=True), "Use task.one_output=false"),
    ],
)
def test_settings_that_cannot_serve_are_refused(make: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()


# --- what comes out -------------------------------------------------------------------------------


def test_a_run_on_a_table_names_its_targets(tmp_path: Path) -> None:
    table = pd.DataFrame(torch.randn(30, 2).numpy(), columns=["rooms", "age"])
    table["price, €"], table["tax"] = 3 * table["rooms"], table["age"]
    table.to_csv(tmp_path / "houses.csv", index=False)
    runner = built(
        tmp_path / "run",
        *("task=auxiliary", "data=targets_table", "model=mlp_40", "outer_steps=1"),
        *(f"data.path={tmp_path}/houses.csv", "data.target=['price, €',tax]", "inner_steps=1"),
    )
    assert "Main target: price, €. Auxiliary: tax." in runner.experiment.task.statement
    scores = runner.run()
    assert list(scores)[-2:] == ["preference.price_", "preference.tax"]
    assert pd.read_csv(tmp_path / "run" / "eval.csv").shape[1] == 2 + len(scores)
    (written,) = (path for path in runner.result() if path.suffix == ".csv")
    assert set(pd.read_csv(written)["target"]) == {"price, €", "tax"}

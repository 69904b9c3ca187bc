"""L-BFGS, against torch's steps and the ends of other solvers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from configs import configured, small
from problems import Quadratic, central_difference
from runners import runner_in
from scipy.optimize import minimize
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.lbfgs import Lbfgs
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X @ torch.linspace(-1, 1, 6, dtype=torch.float64) > 0.3).double() * 2 - 1


class Regression:
    """Ridge or logistic regression with one penalty; F is |w - 1|^2 / 2."""

    def __init__(self, logistic: bool) -> None:
        self.logistic = logistic

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Any) -> Tensor:
        score = X @ inner["w"].reshape(-1)
        margin = torch.nn.functional.softplus(-Y * score)
        losses = margin if self.logistic else 0.5 * (score - Y).square()
        return losses.mean() + 0.5 * outer["log_l2"].exp() * inner["w"].square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Any) -> Tensor:
        return 0.5 * (inner["w"] - 1).square().sum()

    def data(self, steps: int) -> StepData:
        return StepData({"w": torch.zeros(2, 3)}, {"unused": torch.zeros(steps)}, {})


OUTER = {"log_l2": torch.tensor(-3.0, dtype=torch.float64)}
BOTH = pytest.mark.parametrize("logistic", [False, True], ids=["ridge", "logistic"])


@BOTH
def test_the_steps_are_those_of_torch_without_a_line_search(logistic: bool) -> None:
    problem = Regression(logistic)
    data, loop = problem.data(12), InnerLoop(problem, Lbfgs(1.0, 4), Cold())
    state, w = loop.fresh(OUTER, data), torch.zeros(2, 3).requires_grad_()
    given: dict[str, Any] = {"tolerance_grad": 0, "tolerance_change": 0, "max_iter": 1}
    optimizer = torch.optim.LBFGS([w], lr=1.0, history_size=4, **given)

    def closure() -> Any:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = problem.inner_loss({"w": w}, OUTER, {})
            torch.autograd.backward(loss)
        return loss

    for t in range(12):
        state = loop.step(state, OUTER, data, t)
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # of torch
        torch.testing.assert_close(state["inner"]["w"], w.detach(), rtol=1e-9, atol=1e-11)


@BOTH
def test_the_hypergradient_through_its_steps_equals_differences(logistic: bool) -> None:
    problem = Regression(logistic)
    data, loop = problem.data(6), InnerLoop(problem, Lbfgs(1.0, 3), Cold())

    def loss(outer: Params) -> Tensor:
        end = loop.run(loop.fresh(outer, data), outer, data)
        return problem.outer_loss(end["inner"], outer, {})

    found = Reverse(None, None).estimate(loop, OUTER, data, {"inner": loop.fresh(OUTER, data)})
    expected = central_difference(loss, OUTER)["log_l2"]
    torch.testing.assert_close(found.grad["log_l2"], expected, rtol=1e-6, atol=1e-8)


def test_a_quadratic_in_six_dimensions_is_solved_to_rounding_and_stays_solved() -> None:
    problem = Quadratic()
    data, outer = problem.data(60), problem.outer_init()
    loop = InnerLoop(problem, Lbfgs(1.0, 10), Cold())
    end = loop.run(loop.fresh(outer, data), outer, data)
    best = torch.linalg.solve(problem.hessian, problem.coupling @ outer["lam"])
    torch.testing.assert_close(end["inner"]["z"], best, rtol=1e-12, atol=1e-12)
    found = Reverse(20, None).estimate(loop, outer, data, {"inner": loop.fresh(outer, data)})
    assert found.grad["lam"].isfinite().all()


@pytest.mark.parametrize("task", ["ridge", "logistic"])
@pytest.mark.parametrize("method", ["cg", "exact"])
def test_implicit_methods_get_the_exact_hypergradient_at_every_outer_step(
    task: str, method: str, tmp_path: Any
) -> None:
    given = [f"task={task}", *small(task), "device=cpu", "device.dtype=float64", "outer_steps=3"]
    given += [f"method={method}", "solver=lbfgs", "inner_steps=60", "log_every=1", "eval_every=1"]
    runner_in(configured(*given), tmp_path).run()
    train, scores = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("train", "eval"))
    # The scores are in closed form at w*(lambda), which Newton's method finds, before each step.
    exact = scores["hypergradient_norm2"][:-1].to_numpy() ** 0.5
    np.testing.assert_allclose(train["grad_norm"], exact, rtol=1e-5)


@BOTH
def test_it_ends_where_scipy_ends(logistic: bool) -> None:
    problem = Regression(logistic)
    data, loop = problem.data(60), InnerLoop(problem, Lbfgs(1.0, 10), Cold())
    end = loop.run(loop.fresh(OUTER, data), OUTER, data)["inner"]["w"]

    def both(w: Any) -> tuple[float, Any]:
        slope = autodiff.grad_and_value(problem.inner_loss)
        gradient, loss = slope({"w": torch.tensor(w).reshape(2, 3)}, OUTER, {})
        return float(loss), gradient["w"].reshape(-1).numpy()

    found = minimize(both, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(end.reshape(-1).numpy(), found.x, rtol=1e-7, atol=1e-8)


def test_it_goes_on_after_the_outer_parameters_have_moved() -> None:
    """A warm start keeps the pairs of another lambda, as torch keeps those of another loss."""
    problem = Regression(logistic=True)
    data, loop = problem.data(40), InnerLoop(problem, Lbfgs(1.0, 10), Warm())
    state = loop.fresh(OUTER, data)
    for log_l2 in (-3.0, -2.0, -4.0, 0.0):
        outer = {"log_l2": torch.tensor(log_l2, dtype=torch.float64)}
        state = loop.run(state, outer, data)
        slope = autodiff.grad(problem.inner_loss)(state["inner"], outer, {})["w"]
        assert slope.norm() < 1e-9


@pytest.mark.parametrize(("lr", "memory"), [(0.0, 10), (1.0, 0)])
def test_an_unusable_setting_is_refused(lr: float, memory: int) -> None:
    with pytest.raises(ValueError, match=r"Lbfgs needs (a finite step size|memory >= 1)"):
        Lbfgs(lr, memory)

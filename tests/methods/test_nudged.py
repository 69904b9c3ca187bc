"""Differences in the weight of F: their weights, the orders of their errors, and where they hold.

Equilibrium propagation and F2SA-p are differences of the same curve.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from exact import implicit
from problems import Quadratic, estimate
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.methods.contrastive import Contrastive
from bilevel_cli.methods.f2sa_p import F2saP
from bilevel_cli.methods.parts.nudged import difference
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.warm import Warm

ORDERS = (1, 2, 3, 5, 8, 10)
SOLVED = 30  # steps at LR that solve the problems here to rounding: each leaves 0.3 of an error
LR = 0.8


class Smooth:
    """f = sum exp(lam) (z^2 + z^4 / 10) / 2 - a z,  F = sum softplus(z) + lam^2 / 4.

    Entries are independent, so that the minimiser and its response are those of a line. With
    `quadratic`, f is the same without its fourth powers, and F = sum c z + lam^2 / 4.
    """

    a = torch.tensor([0.5, 1.0, -0.4], dtype=torch.float64)
    c = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    lam = torch.tensor([0.2, 0.0, -0.1], dtype=torch.float64)

    def __init__(self, quadratic: bool = False) -> None:
        self.quadratic = quadratic
        self.quartic = 0.0 if quadratic else 0.1

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        z, weight = inner["z"], outer["lam"].exp()
        return (weight * (z**2 + self.quartic * z**4) / 2 - self.a * z).sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        z = inner["z"]
        loss = self.c * z if self.quadratic else torch.nn.functional.softplus(z)
        return loss.sum() + outer["lam"].square().sum() / 4

    def data(self, steps: int = SOLVED) -> StepData:
        return StepData({"z": torch.zeros(3)}, {"unused": torch.zeros(steps)}, {})

    def outer(self) -> Params:
        return {"lam": self.lam}

    def hypergradient(self) -> Tensor:
        z, weight = torch.zeros(3), self.lam.exp()
        for _ in range(50):  # Newton's method
            slope = weight * (z + 2 * self.quartic * z**3) - self.a
            z = z - slope / (weight * (1 + 6 * self.quartic * z**2))
        curvature = weight * (1 + 6 * self.quartic * z**2)
        cross = weight * (z + 2 * self.quartic * z**3)
        return self.lam / 2 - cross / curvature * (self.c if self.quadratic else z.sigmoid())


def contrastive(nudge: float, symmetric: bool = True, steps: int = SOLVED) -> Contrastive:
    return Contrastive(nudge, steps, warm_nudged=False, symmetric=symmetric)


def f2sa_p(nudge: float, order: int, steps: int = SOLVED, warm: bool = False) -> F2saP:
    return F2saP(nudge, steps, warm, order)


def found(method: Hypergradient[Any], problem: Smooth) -> Tensor:
    solver = GradientDescent(LR)
    return estimate(method, problem, problem.data(), problem.outer(), Warm(), solver).grad["lam"]


def slope(nudges: Sequence[float], errors: Sequence[float]) -> float:
    """The slope of the line through errors at nudges, both as logarithms."""
    x, y = (torch.tensor([math.log(one) for one in each]) for each in (nudges, errors))
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (x @ x))


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "positive", "others"),
    [
        (1, [1.0], [-1.0]),
        (2, [1 / 2], []),
        (3, [1.0, -1 / 6], [-1 / 2, -1 / 3]),
        (5, [1.0, -1 / 4, 1 / 30], [-1 / 3, -1 / 2, 1 / 20]),
        (8, [672 / 840, -168 / 840, 32 / 840, -3 / 840], []),
        (10, [n / 2520 for n in (2100, -600, 150, -25, 2)], []),
    ],
)
def test_the_weights_are_those_of_the_released_code(
    order: int, positive: list[float], others: list[float]
) -> None:
    """Those of b, 2 b, ...; and for an odd order those of 0, -b, -2 b, ..."""
    expected = dict(enumerate(positive, 1))
    if order % 2:
        expected |= {-node: weight for node, weight in enumerate(others)}
    else:
        expected |= {-node: -weight for node, weight in expected.items()}
    assert difference(order) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("order", range(1, 13))
def test_the_weights_take_the_derivative_of_powers_up_to_the_order(order: int) -> None:
    weights = difference(order)
    assert len(weights) == order + order % 2
    for power in range(order + 1):
        terms = [weight * float(node) ** power for node, weight in weights.items()]
        # Sums of terms that cancel: rounding of the largest of them.
        assert abs(sum(terms) - (power == 1)) <= 1e-15 * len(terms) * max(map(abs, terms))


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_the_error_of_a_difference_falls_as_the_nudge_to_its_order(order: int) -> None:
    problem = Smooth()
    exact = problem.hypergradient()
    # Nudges at which the error is small enough for a power law, and far above rounding / nudge.
    nudges = [factor * 1e-9 ** (1 / max(order, 3)) for factor in (1.0, 0.5)]
    errors = [float((found(f2sa_p(b, order), problem) - exact).norm()) for b in nudges]
    assert slope(nudges, errors) == pytest.approx(order, rel=0.015)


@pytest.mark.parametrize(("symmetric", "order"), [(True, 2), (False, 1)])
def test_a_symmetric_contrast_is_off_by_the_square_of_the_nudge_and_a_one_sided_by_the_nudge(
    symmetric: bool, order: int
) -> None:
    problem, nudges = Smooth(), [0.01, 0.005]
    exact = problem.hypergradient()
    errors = [float((found(contrastive(b, symmetric), problem) - exact).norm()) for b in nudges]
    assert slope(nudges, errors) == pytest.approx(order, rel=0.01)


def test_order_two_is_exact_for_a_quadratic_f_and_a_linear_outer_loss() -> None:
    problem = Smooth(quadratic=True)
    exact = problem.hypergradient()
    for nudge in (0.3, 0.1):  # however large: only rounding is left
        assert (found(f2sa_p(nudge, 2), problem) - exact).norm() < 1e-13
        # f is bilinear in z^2 and exp(lam): the slope is quadratic in b, so order 1 sees it.
        assert (found(f2sa_p(nudge, 1), problem) - exact).norm() > 0.01


def test_the_contrasts_are_the_differences_of_the_first_two_orders() -> None:
    problem = Smooth()
    for order, symmetric in ((1, False), (2, True)):
        both = f2sa_p(0.05, order, steps=7), contrastive(0.05, symmetric, steps=7)
        assert torch.equal(*(found(method, problem) for method in both))


# --- inner solves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_at_a_solution_nudged_steps_are_terms_of_a_neumann_series(steps: int) -> None:
    problem = Quadratic()
    data, outer, solver = problem.data(100), problem.outer_init(), GradientDescent(0.2)
    grad, series = (
        estimate(method, problem, data, outer, solver=solver).grad["lam"]
        for method in (contrastive(1e-4, steps=steps), implicit(Neumann(steps, 0.2)))
    )
    # Off by the square of the nudge, and by rounding over the nudge.
    torch.testing.assert_close(grad, series, rtol=1e-7, atol=0)


@pytest.mark.parametrize("order", [2, 3])
def test_warm_nudged_problems_are_solved_as_outer_steps_go_on(order: int) -> None:
    problem = Smooth()
    loop, data = InnerLoop(problem, GradientDescent(LR), Warm()), problem.data(1)
    method = f2sa_p(0.05, order, steps=1, warm=True)
    carry = method.init(problem.outer(), loop.fresh(problem.outer(), data))
    for _ in range(SOLVED):
        ended = method.estimate(loop, problem.outer(), data, carry)
        carry = ended.carry
    expected = found(f2sa_p(0.05, order), problem)
    torch.testing.assert_close(ended.grad["lam"], expected, rtol=1e-10, atol=0)
    assert ended.metrics["adjoint_residual"] < 1e-10
    assert method.remembers
    assert not f2sa_p(0.05, order).remembers


def test_a_nudge_beyond_the_ratio_of_curvatures_is_doubted() -> None:
    problem = Quadratic()  # f curves by 1 to 5, and F by 1
    data, outer = problem.data(50), problem.outer_init()
    for nudge, doubted in ((0.1, False), (2.0, True)):
        method = contrastive(nudge, steps=50)
        metrics = estimate(method, problem, data, outer).metrics
        doubts = method.doubts({name: float(value) for name, value in metrics.items()})
        assert list(doubts) == ["adjoint_residual"] * doubted
        assert all("lower method.nudge" in text for text in doubts.values())


def test_minibatches_that_are_fewer_than_nudged_steps_are_gone_through_again() -> None:
    problem = Quadratic()
    data = problem.data(2)._replace(inner={"scale": torch.tensor([1.0, 0.5])})
    outer, inner = problem.outer_init(), trees.zeros_like(problem.data(1).init)
    method = Contrastive(0.1, 3, warm_nudged=False, symmetric=False)
    found = estimate(method, problem, data, outer).grad["lam"]

    def stepped(z: Tensor, blend: float) -> Tensor:
        for scale in (0.5, 1.0, 0.5):
            slope = problem.hessian @ z - scale * problem.coupling @ outer["lam"]
            z = z - 0.1 * (slope + blend * (z - problem.target))
        return z

    z = inner["z"]
    for scale in (1.0, 0.5):
        z = z - 0.1 * (problem.hessian @ z - scale * problem.coupling @ outer["lam"])
    contrast = (stepped(z, 0.1) - stepped(z, 0.0)) / 0.1
    torch.testing.assert_close(found, -0.5 * problem.coupling.T @ contrast, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: contrastive(0.0), "Contrastive needs a finite nudge > 0, got nudge=0"),
        (lambda: f2sa_p(math.inf, 2), "F2saP needs a finite nudge > 0, got nudge=inf"),
        (lambda: contrastive(0.1, steps=0), "Contrastive needs nudged_steps >= 1, got"),
        (lambda: f2sa_p(0.1, 0), "F2saP needs order >= 1, got order=0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

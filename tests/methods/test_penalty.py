"""Penalty and value-function methods: exact values, rates of bias, and followers not unique."""

import math
from typing import Any

import pytest
import torch
from problems import Plane, Quadratic, central_difference, estimate
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate, Hypergradient
from bilevel_cli.core.schedules import PowerLaw, Ramp
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.start import Start
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.bome import Bome
from bilevel_cli.methods.bvfsm import Bvfsm
from bilevel_cli.methods.f2sa import F2sa
from bilevel_cli.methods.g_pbgd import GPbgd
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.meha import Meha
from bilevel_cli.methods.pbgd import Pbgd
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.aggregated import Aggregated
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.examples.bda_toy import Counterexample
from bilevel_cli.tasks.examples.pbgd_toy import MINIMISERS, PbgdToy

CPU = torch.device("cpu")
PLANE, OUTER = Plane(), {"x": Plane.x}
SOLUTION = torch.tensor([-0.2, 1.4], dtype=torch.float64)
STILL = GradientDescent(1e-300)  # steps so short that nothing moves
FULL = Reverse(window=None, segment=None)


def constant(multiplier: float) -> Ramp:
    return Ramp(multiplier, multiplier, 0)


def power(initial: float, exponent: float = 0.0) -> PowerLaw:
    return PowerLaw(initial, exponent)


def in_the_plane(
    method: Hypergradient[Any],
    solver: InnerSolver[Any],
    value: Tensor | None = None,
    steps: int = 1,
) -> Estimate:
    """One estimate from y_0, with z at `value`."""
    data, loop = PLANE.data(steps), InnerLoop(PLANE, solver, Warm())
    carry = method.init(OUTER, loop.fresh(OUTER, data))
    if value is not None:
        carry["value"] = {"inner": {"y": value}}
    return method.estimate(loop, OUTER, data, carry)


def assert_equal(found: Tensor, expected: tuple[float, ...]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-9, atol=1e-12)


# --- exact values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        Pbgd(constant(10.0), penalised_steps=1),
        F2sa(multiplier=10.0, growth=0.0),
        Meha(power(0.1), gamma=1.0),
    ],
    ids=["pbgd", "f2sa", "meha"],
)
def test_the_gradient_of_the_value_penalty(method: Hypergradient[Any]) -> None:
    assert_equal(in_the_plane(method, STILL, SOLUTION).grad["x"], (6.5, 5.0))


def test_pbgd_steps_along_the_penalised_loss_by_its_share_of_gamma() -> None:
    found = in_the_plane(Pbgd(constant(10.0), 1), GradientDescent(0.1), SOLUTION, steps=7)
    # The gradient of F + gamma (f - min f) in y is (-1, -8), of which y takes lr / gamma.
    assert_equal(found.carry["inner"]["inner"]["y"], (0.01, 1.08))
    assert_equal(found.carry["value"]["inner"]["y"], (-0.2, 1.4))


@pytest.mark.parametrize(
    ("gamma", "expected"), [(10.0, (40.5, 21.0)), (1.0, (4.5, 3.0)), (1e-9, (0.5, 1.0))]
)
def test_the_gradient_of_the_slope_penalty(gamma: float, expected: tuple[float, float]) -> None:
    # Defect elsewhere: without a graph of the inner gradient the penalty has gradient 0.
    found = in_the_plane(GPbgd(constant(gamma), step_size=0.1), STILL)
    torch.testing.assert_close(found.grad["x"], torch.tensor(expected), rtol=1e-8, atol=0)
    assert_equal(found.metrics["inner_grad_norm"], 1.0)  # type: ignore[arg-type]


def test_g_pbgd_steps_along_the_slope_penalty_in_units_of_an_inner_gradient() -> None:
    found = in_the_plane(GPbgd(constant(10.0), step_size=0.2), GradientDescent(0.1))
    # The gradient of F + gamma |d_y f|^2 in y is (-21, -58): lr * step_size / (2 gamma) of it.
    assert_equal(found.carry["inner"]["inner"]["y"], (0.021, 1.058))


def test_one_step_of_bome() -> None:
    found = in_the_plane(Bome(eta=0.5), GradientDescent(0.1))
    # y_1 = (0, 1.1), so grad q = ((0.2, 0.1), (0, -1)), and grad F = ((0.5, 1), (-1, 2)).
    multiplier = 0.5 + 1.8 / 1.05
    assert_equal(found.metrics["multiplier"], multiplier)  # type: ignore[arg-type]
    assert_equal(found.grad["x"], (0.5 + 0.2 * multiplier, 1 + 0.1 * multiplier))
    assert_equal(found.carry["inner"]["inner"]["y"], (0.1, 1 - 0.1 * (2 - multiplier)))


def test_bome_follows_the_outer_gradient_where_the_gap_has_none() -> None:
    task = Counterexample([0.0, 0.0, 0.5], CPU)
    loop = InnerLoop(task, GradientDescent(0.1), Warm())
    data = task.sample(3, torch.Generator())
    found = Bome(eta=0.5).estimate(
        loop, {"x": task.start[0]}, data, {"inner": loop.fresh({}, data)}
    )
    # f has slope 0 at y = (0, 0.5): the multiplier would be 0 / 0.
    assert found.metrics["multiplier"] == 0
    assert_equal(found.grad["x"], -0.5)  # type: ignore[arg-type]
    assert_equal(found.carry["inner"]["inner"]["y"], (0.1, 0.45))


@pytest.mark.parametrize("eta", [0.0, 0.5, 2.0])
def test_along_the_direction_of_bome_the_gap_falls_as_promised(eta: float) -> None:
    lr = 0.01
    turned = []
    for y in torch.randn(20, 2):
        data = PLANE.data(3)._replace(init={"y": y})
        found = estimate(Bome(eta), PLANE, data, OUTER, Warm(), GradientDescent(lr))
        along = (y - found.carry["inner"]["inner"]["y"]) / lr
        best = y
        for _ in range(3):
            best = best - lr * (PLANE.A @ best - PLANE.B @ Plane.x)
        slope = torch.cat([PLANE.B.T @ (best - y), PLANE.A @ y - PLANE.B @ Plane.x])
        upper = torch.cat([PLANE.rho * Plane.x, y - PLANE.c])
        falls, promised = torch.cat([found.grad["x"], along]) @ slope, eta * slope @ slope
        natural = upper @ slope  # how fast it falls along grad F
        torch.testing.assert_close(falls, torch.maximum(promised, natural), rtol=1e-9, atol=1e-12)
        turned.append(bool(natural < promised))
    assert any(turned)
    assert eta > 0.5 or not all(turned)


def test_one_step_of_meha() -> None:
    found = in_the_plane(Meha(power(0.1), gamma=2.0), GradientDescent(0.1))
    assert_equal(found.carry["value"]["inner"]["y"], (0.0, 1.1))
    # F_y / c + f_y - (y - theta) / gamma = (-0.1, 0.2) + (0, -1) - (0, -0.05)
    assert_equal(found.carry["inner"]["inner"]["y"], (0.01, 1.075))
    assert_equal(found.grad["x"], (0.9, 1.25))  # F_x - c B'(y - theta)


def test_meha_takes_theta_to_the_proximal_point() -> None:
    found = in_the_plane(Meha(power(1e-9), gamma=0.7), GradientDescent(0.2), steps=300)
    y, theta = (found.carry[name]["inner"]["y"] for name in ("inner", "value"))
    center = PLANE.B @ Plane.x + y / 0.7
    expected = torch.linalg.solve(PLANE.A + torch.eye(2) / 0.7, center)
    torch.testing.assert_close(theta, expected, rtol=1e-9, atol=0)


def test_bvfsm_returns_the_derivative_of_its_smoothed_problem() -> None:
    method = Bvfsm(sigma=0.8, mu=0.2, theta=0.4, decay=power(0.5), step_size=0.25)
    theta, mu, sigma = 0.2, 0.05, 0.1
    solver, data = GradientDescent(0.25), PLANE.data(300)

    def phi(outer: Params) -> Tensor:
        found = estimate(method, PLANE, data, outer, Warm(), solver)
        y, z = (found.carry[name]["inner"] for name in ("inner", "value"))
        # With mu, z solves (A + mu) z = B x.
        best = torch.linalg.solve(PLANE.A + mu * torch.eye(2), PLANE.B @ outer["x"])
        torch.testing.assert_close(z["y"], best, rtol=1e-9, atol=0)
        level = PLANE.inner_loss(z, outer, {}) + 0.5 * mu * best.square().sum()
        missed = (PLANE.inner_loss(y, outer, {}) - level).clamp(min=0.0)
        assert missed > 0
        regulariser = 0.5 * theta * y["y"].square().sum()
        return PLANE.outer_loss(y, outer, {}) + regulariser + missed**2 / (2 * sigma)

    found = estimate(method, PLANE, data, OUTER, Warm(), solver)
    # The envelope theorem: phi is differenced with y and z solved anew. Error of order 1e-10.
    torch.testing.assert_close(found.grad, central_difference(phi, OUTER), rtol=1e-7, atol=1e-9)


def test_bvfsm_is_free_where_the_regularised_constraint_is_slack() -> None:
    # With a large mu the whole neighbourhood of the outer minimiser c satisfies f(y) <= f*_mu.
    method = Bvfsm(sigma=0.1, mu=1000.0, theta=0.0, decay=power(1.0), step_size=1e-4)
    plane_c = {"y": Plane.c}
    data = PLANE.data(100)._replace(init=plane_c)
    outer = {"x": torch.tensor([4.0, -6.0])}
    found = estimate(method, PLANE, data, outer, Warm(), GradientDescent(1e-4))
    assert found.metrics["multiplier"] == 0
    torch.testing.assert_close(found.grad["x"], PLANE.rho * outer["x"], rtol=1e-12, atol=0)


# --- rates ----------------------------------------------------------------------------------------


def bias(method: Hypergradient[Any], steps: int) -> float:
    problem = Quadratic()
    outer = problem.outer_init()
    found = estimate(method, problem, problem.data(steps), outer, Warm(), GradientDescent(0.2))
    return float(trees.norm(trees.axpy(-1.0, problem.hypergradient(outer), found.grad)))


def bvfsm(rate: float) -> Bvfsm:
    return Bvfsm(1e-6, 1e-8, 1e-4, power(100 / rate), step_size=0.2)


@pytest.mark.parametrize(
    ("at", "steps"),
    [
        # An error of the inner loops, 0.8^200, enters times the multiplier.
        (lambda m: F2sa(m, growth=0.0), 200),
        (lambda m: Pbgd(constant(m), penalised_steps=200), 200),
        (lambda m: GPbgd(constant(m), step_size=0.2), 700),  # contracts by 1 - (lr h)^2 = 0.96
        (lambda m: Meha(power(1 / m), gamma=10.0), 200),
        (bvfsm, 500),  # contracts by 1 - lr h / 3 at least
    ],
    ids=["f2sa", "pbgd", "g_pbgd", "meha", "bvfsm"],
)
def test_the_bias_falls_as_the_inverse_of_the_multiplier(at: Any, steps: int) -> None:
    small, large = bias(at(100.0), steps), bias(at(1000.0), steps)
    assert small / large == pytest.approx(10, abs=1)


# --- a follower with many best responses ----------------------------------------------------------


def descend(
    method: Hypergradient[Any],
    task: Task,
    outer_lr: float,
    outer_steps: int,
    solver: InnerSolver[Any],
    start: Start | None = None,
    inner_steps: int = 5,
) -> tuple[Params, Params]:
    """Outer gradient descent. Returns the outer and inner parameters."""
    generator = torch.Generator()
    data, loop = task.sample(inner_steps, generator), InnerLoop(task, solver, start or Warm())
    outer = {**loop.outer_init(data, {}), **task.init_outer(generator)}
    carry: Carry = method.init(outer, loop.fresh(outer, data))
    for _ in range(outer_steps):
        found = method.estimate(loop, outer, data, carry)
        outer = task.project_outer(trees.axpy(-outer_lr, found.grad, outer))
        carry = found.carry
    return outer, carry["inner"]["inner"]


def counterexample(
    method: Hypergradient[Any], solver: InnerSolver[Any] | None = None, **others: Any
) -> tuple[float, float]:
    """(F, x) at the end, from x = 0, y = 0."""
    task = Counterexample([0.0, 0.0, 0.0], CPU)
    outer, inner = descend(method, task, 0.1, 200, solver or GradientDescent(0.9), **others)
    return float(task.outer_loss(inner, outer, {})), float(outer["x"])


@pytest.mark.parametrize(
    "method",
    [FULL, Implicit(Exact(0.0, rtol=1e-12), warm_adjoint=False, curvature="hessian", clip=None)],
    ids=["reverse", "exact"],
)
def test_who_differentiates_a_best_response_misses_the_best_of_them(
    method: Hypergradient[Any],
) -> None:
    # y_2 stays at 0; the inner loop contracts by 0.1^5, the outer one by 0.8^200.
    assert counterexample(method) == pytest.approx((0.25, 0.5), abs=2e-5)


@pytest.mark.parametrize(
    "method",
    [
        F2sa(10.0, growth=0.1),
        Pbgd(Ramp(1.0, 10.0, 100), 1),
        GPbgd(Ramp(1.0, 10.0, 100), step_size=0.9),
        Bome(0.5),
        Meha(power(0.1, 0.25), gamma=10.0),
        Bvfsm(1e-3, 1e-4, 1e-3, power(1.0, 0.25), step_size=0.9),
    ],
    ids=lambda method: type(method).__name__,
)
def test_who_descends_on_both_losses_finds_the_best_of_them(method: Hypergradient[Any]) -> None:
    # The penalty of Bvfsm is of fourth order in y: steps of x must not leave y far behind.
    loss, x = counterexample(method, inner_steps=20 if isinstance(method, Bvfsm) else 5)
    assert loss < 1e-4  # of 0.25
    assert x == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("method", "start", "bound"),
    [(FULL, Warm(), 1e-9), (FULL, Cold(), 0.02), (Iaptt(), Learned(), 0.002)],
    ids=["aggregated", "aggregated, cold", "iaptt"],
)
def test_aggregation_and_a_learned_start_choose_among_them(
    method: Hypergradient[Any], start: Start, bound: float
) -> None:
    plain = GradientDescent(0.9)
    solver = plain if isinstance(method, Iaptt) else Aggregated(plain, 0.9, 0.1)
    assert counterexample(method, solver, start=start, inner_steps=20)[0] < bound


# --- the toy of PBGD ------------------------------------------------------------------------------


def test_the_outer_gradient_of_the_toy() -> None:
    # Defect elsewhere: 1 + e^(2 ...) for (1 + e^...)^2 gives -0.909.
    task, outer = PbgdToy([0.3, -0.3], CPU), {"x": torch.tensor(0.3)}
    found = autodiff.grad(task.outer_loss, 1)({"y": task.y}, outer, {})["x"]
    torch.testing.assert_close(found, torch.tensor(-1.3550902), rtol=1e-7, atol=0)


def test_the_minimisers_of_the_toy_are_stationary() -> None:
    task = PbgdToy([0.0, 0.0], CPU)

    def value(x: Tensor) -> Tensor:
        return task.outer_loss({"y": -x}, {"x": x}, {})

    for x, expected in zip(MINIMISERS, (0.44270572, 0.19991089, 1.24345827), strict=True):
        here = torch.tensor(x)
        # Six decimals of x, at a curvature below 50.
        assert autodiff.grad(value)(here).abs() < 1e-4
        torch.testing.assert_close(value(here), torch.tensor(expected), rtol=1e-8, atol=1e-8)
        assert value(here - 0.01) > value(here) < value(here + 0.01)


@pytest.mark.parametrize(
    "method",
    [Pbgd(constant(10.0), 1), GPbgd(constant(10.0), step_size=0.15)],
    ids=["pbgd", "g_pbgd"],
)
@pytest.mark.parametrize("start", [0.0, 1.5, 3.0])
def test_pbgd_ends_near_a_local_minimiser(method: Hypergradient[Any], start: float) -> None:
    task = PbgdToy([start, -start], CPU)
    outer, inner = descend(method, task, 0.02, 200, GradientDescent(0.15))
    scores = task.evaluate(InnerLoop(task, STILL, Warm()), outer, inner)
    # |d_y F| <= 4 and d_y^2 f = 2 + 2 x >= 2.5 there: |x + y| <= 4 / (2.5 gamma).
    assert scores["gap"] < 0.16
    assert scores["distance"] < 0.06


# --- settings and schedules -----------------------------------------------------------------------


def test_multipliers_grow_with_outer_steps_and_not_with_inner_ones() -> None:
    expected: dict[Hypergradient[Any], tuple[float, ...]] = {
        F2sa(2.0, growth=0.5): (2.0, 2.5, 3.0),
        Pbgd(Ramp(1.0, 9.0, 2), 1): (1.0, 5.0, 9.0),
        GPbgd(Ramp(1.0, 9.0, 1), 0.1): (1.0, 9.0, 9.0),
        Meha(power(0.5, 1.0), gamma=1.0): (2.0, 4.0, 6.0),
    }
    for method, multipliers in expected.items():
        data, loop = PLANE.data(4), InnerLoop(PLANE, GradientDescent(0.1), Warm())
        carry = method.init(OUTER, loop.fresh(OUTER, data))
        for multiplier in multipliers:
            found = method.estimate(loop, OUTER, data, carry)
            assert_equal(found.metrics["multiplier"], multiplier)  # type: ignore[arg-type]
            carry = found.carry


def test_bome_keeps_the_memory_of_its_own_steps_apart() -> None:
    data, loop = PLANE.data(3), InnerLoop(PLANE, Momentum(0.1, 0.5), Warm())
    method = Bome(0.5)
    carry = method.init(OUTER, loop.fresh(OUTER, data))
    carry["inner"]["velocity"] = {"y": torch.tensor([100.0, -100.0])}
    found = method.estimate(loop, OUTER, data, carry)
    plain = method.estimate(loop, OUTER, data, method.init(OUTER, loop.fresh(OUTER, data)))
    assert torch.equal(found.grad["x"], plain.grad["x"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F2sa(0.0, 0.0), "multiplier > 0, got multiplier=0"),
        (lambda: F2sa(1.0, -1.0), "growth >= 0, got growth=-1"),
        (lambda: F2sa(1.0, math.nan), "growth >= 0, got growth=nan"),
        (lambda: Ramp(2.0, 1.0, 1), "0 < initial <= final < inf, got initial=2"),
        (lambda: Ramp(1.0, 2.0, -1), "steps >= 0, got steps=-1"),
        (lambda: Pbgd(constant(1.0), 0), "penalised_steps >= 1, got penalised_steps=0"),
        (lambda: GPbgd(constant(1.0), 0.0), "step_size > 0, got step_size=0"),
        (lambda: Bome(-0.5), "eta >= 0, got eta=-0.5"),
        (lambda: Meha(power(1.0), math.inf), "gamma > 0, got gamma=inf"),
        (lambda: Bvfsm(0.0, 0.1, 0.1, power(1.0), 0.1), "sigma > 0, got sigma=0"),
        (lambda: Bvfsm(0.1, -1.0, 0.1, power(1.0), 0.1), "mu >= 0, got mu=-1"),
        (lambda: Bvfsm(0.1, 0.1, math.nan, power(1.0), 0.1), "theta >= 0, got theta=nan"),
        (lambda: Bvfsm(0.1, 0.1, 0.1, power(1.0), 0.0), "step_size > 0, got step_size=0"),
        (lambda: Counterexample([0.0, 0.0], CPU), r"start=\[x,y1,y2\]"),
        (lambda: PbgdToy([4.0, 0.0], CPU), r"x in \[0, 3\]"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class StartOnly(Plane):
    """A problem whose outer parameters are the start of y, and occur in no loss."""

    def inner_loss(self, inner: Params, outer: Params, batch: Any) -> Tensor:
        return super().inner_loss(inner, {"x": Plane.x}, batch)

    def outer_loss(self, inner: Params, outer: Params, batch: Any) -> Tensor:
        return super().outer_loss(inner, {"x": Plane.x}, batch)


@pytest.mark.parametrize(
    "method",
    [
        F2sa(10.0, 0.0),
        Pbgd(constant(10.0), 1),
        GPbgd(constant(10.0), 0.1),
        Bome(0.5),
        Meha(power(0.1), 1.0),
        Bvfsm(0.1, 0.1, 0.1, power(1.0), 0.1),
    ],
    ids=lambda method: type(method).__name__,
)
def test_outer_parameters_that_occur_in_no_loss_are_refused(method: Hypergradient[Any]) -> None:
    loop = InnerLoop(StartOnly(), GradientDescent(0.1), Cold())
    with pytest.raises(ValueError, match=f"{type(method).__name__} needs.*method=reverse"):
        method.check(loop, {"init.y": torch.ones(2)}, PLANE.data(2))
    method.check(InnerLoop(PLANE, GradientDescent(0.1), Cold()), OUTER, PLANE.data(2))
    assert method.remembers

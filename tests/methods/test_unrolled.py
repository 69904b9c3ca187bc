"""Variants of unrolling, and methods without second derivatives, against exact answers."""

from typing import Any

import pytest
import torch
from claims import Logistic, held_to_its_claim
from configs import composed
from exact import OUTER, PLANE, TRUNCATED, UNROLLED, OneDimensionalMaml, assert_equal
from hydra.utils import instantiate
from problems import Plane, Quadratic, central_difference, estimate
from torch import Tensor

from bilevel_cli.core.claim import Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.solver import Learned as LearnedSetting
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.bsg1 import Bsg1
from bilevel_cli.methods.darts import Darts
from bilevel_cli.methods.fomaml import FirstOrderMaml
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.reptile import Reptile
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.methods.sama import Sama
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.aggregated import Aggregated, DescentAggregation
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum, NesterovMomentum
from bilevel_cli.solvers.nesterov import Nesterov
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.warm import Warm

FULL, ONE_STEP = Reverse(None, None), Reverse(1, None)
MAML_DATA = StepData({}, {"unused": torch.zeros(1)}, {})
THETA = {"init.w": torch.tensor(0.5, dtype=torch.float64)}


@pytest.mark.parametrize(("steps", "expected"), UNROLLED.items())
def test_method_ia_unrolls_through_a_learned_start(
    steps: int, expected: tuple[float, float]
) -> None:
    config = composed("task=quadratic", "method=ia")
    method, start = instantiate(config.method), instantiate(config.start)
    data = PLANE.data(steps)
    found = estimate(method, PLANE, data, OUTER | {"init.y": data.init["y"]}, start)
    assert_equal(found.grad["x"], expected)


def test_method_one_step_differentiates_a_single_inner_step() -> None:
    method = instantiate(composed("task=quadratic", "method=one_step").method)
    assert_equal(estimate(method, PLANE, PLANE.data(1), OUTER).grad["x"], UNROLLED[1])
    assert_equal(estimate(method, PLANE, PLANE.data(5), OUTER).grad["x"], TRUNCATED[1])


class Selection:
    """F = (x - y_2)^2 / 2 + (y_1 - 1)^2 / 2 and f = y_1^2 / 2 - x y_1, which leaves y_2 free.

    The counter-example of Liu et al. (2020): F = 0 at x = 1, y = (1, 1), out of the reach of
    unrolling from y = 0, which ends at x = 1/2 with F = 1/4.
    """

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * inner["y"][0] ** 2 - outer["x"] * inner["y"][0]

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        y = inner["y"]
        return 0.5 * (outer["x"] - y[1]) ** 2 + 0.5 * (y[0] - 1) ** 2


def descend(solver: InnerSolver[Any]) -> tuple[Tensor, Tensor]:
    """The outer parameter and loss after descent from x = 0 with full unrolling."""
    data = StepData({"y": torch.zeros(2)}, {"unused": torch.zeros(40)}, {})
    x = torch.zeros(())
    for _ in range(40):
        found = estimate(FULL, Selection(), data, {"x": x}, solver=solver)
        x = x - 0.5 * found.grad["x"]
    return x, estimate(FULL, Selection(), data, {"x": x}, solver=solver).loss


def test_bda_selects_among_inner_minimisers_where_unrolling_cannot() -> None:
    gd = GradientDescent(0.5)
    x, loss = descend(gd)
    torch.testing.assert_close((x, loss), (torch.tensor(0.5), torch.tensor(0.25)))
    # The total weight of the outer loss along the way, about 0.5 / (1 - 0.95), leaves of the
    # distance of y_2 to x at most exp(-lr * 10) = exp(-5).
    x, loss = descend(DescentAggregation(gd, 0.5, 0.95))
    assert loss < 0.01
    assert (x - 1).abs() < 0.1


def test_the_weight_of_the_outer_loss_decays_along_the_inner_loop() -> None:
    # BOAT's numbers: 0.5, and 0.9 of it with each step.
    data, gd = PLANE.data(4), GradientDescent(0.1)
    loop = InnerLoop(PLANE, DescentAggregation(gd, 0.5, 0.9), Cold())
    state, expected = loop.fresh(OUTER, data), gd.init(data.init)
    for t in range(4):
        weight = 0.5 * 0.9**t
        fixed = InnerLoop(PLANE, Aggregated(gd, 1 - weight, weight), Cold())
        state = loop.step(state, OUTER, data, t)
        expected = fixed.step(expected, OUTER, data, t)
        assert_equal(state["inner"]["y"], tuple(expected["inner"]["y"].tolist()))


def test_bda_is_differentiated_through_both_losses() -> None:
    loop = InnerLoop(PLANE, DescentAggregation(Momentum(0.1, 0.5), 0.5, 0.9), Cold())
    data = PLANE.data(5)

    def loss(outer: Params) -> Tensor:
        state = loop.run(loop.fresh(outer, data), outer, data)
        return PLANE.outer_loss(state["inner"], outer, {})

    found = estimate(FULL, PLANE, data, OUTER, solver=loop.solver)
    # Central differences are off by rounding alone on a polynomial of degree two.
    torch.testing.assert_close(found.grad, central_difference(loss, OUTER), rtol=1e-8, atol=0)


def test_bda_gives_way_to_the_user() -> None:
    config = composed("task=reweight", "method=bda", "solver.decay=0.5", "start=warm")
    assert config.solver.decay == 0.5
    assert "warm" in config.start._target_
    assert "Momentum" in composed("task=reweight", "method=bda", "solver=momentum").solver._target_


@pytest.mark.parametrize("setting", ["outer_weight", "decay"])
def test_bda_refuses_weights_outside_of_the_unit_interval(setting: str) -> None:
    settings = {"outer_weight": 0.5, "decay": 0.5} | {setting: 1.5}
    with pytest.raises(ValueError, match=rf"{setting} in \[0, 1\], got {setting}=1.5"):
        DescentAggregation(GradientDescent(0.1), **settings)


@pytest.mark.parametrize("start", [Cold(), Learned()], ids=["of the task", "of the policy"])
@pytest.mark.parametrize(
    ("method", "expected"), [(FULL, 8 / 5), (FirstOrderMaml(), 2.0), (Reptile(), -0.5)], ids=str
)
def test_first_order_meta_learning_in_one_dimension(
    method: Hypergradient[Any], expected: float, start: Start
) -> None:
    found = estimate(method, OneDimensionalMaml(), MAML_DATA, THETA, start)
    assert_equal(found.carry["inner"]["inner"]["w"], 1.0)
    assert_equal(found.grad["init.w"], expected)
    assert_equal(found.loss, 2.0)


def test_what_first_order_maml_says_of_other_outer_parameters() -> None:
    # Those of the outer loss are learned from it; those of the inner loss alone stand still.
    problem, data = Logistic(), Logistic().data(3)
    outer = problem.outer() | {"init.w": torch.ones(4)}
    found = estimate(FirstOrderMaml(), problem, data, outer, Learned())
    last = found.carry["inner"]["inner"]["w"]
    torch.testing.assert_close(found.grad["weights"], 0.2 / 12 * outer["weights"])
    torch.testing.assert_close(found.grad["init.w"], last - 1)
    moved = estimate(Reptile(), problem, data, outer, Learned()).grad
    torch.testing.assert_close(moved["weights"], torch.zeros(12))
    torch.testing.assert_close(moved["init.w"], 1 - last)


@pytest.mark.parametrize("method", [FirstOrderMaml(), Reptile()], ids=str)
def test_without_a_learned_start_there_is_nothing_to_learn(method: Hypergradient[Any]) -> None:
    loop = InnerLoop(PLANE, GradientDescent(0.1), Cold())
    with pytest.raises(ValueError, match=r"needs a learned start.*start=learned.*method=darts"):
        method.check(loop, OUTER, PLANE.data(1))
    method.check(loop, OUTER | {"init.y": torch.zeros(2)}, PLANE.data(1))


@pytest.mark.parametrize("radius", [1e-3, 0.01, 1.0])
def test_darts_is_exact_on_a_quadratic(radius: float) -> None:
    # Rounding of a difference of radius r is of order 1e-16 / r.
    assert_equal(estimate(Darts(radius), PLANE, PLANE.data(1), OUTER).grad["x"], UNROLLED[1])
    assert_equal(estimate(Darts(radius), PLANE, PLANE.data(5), OUTER).grad["x"], TRUNCATED[1])


def test_without_its_second_order_part_darts_would_be_the_direct_term() -> None:
    found = estimate(Darts(0.01), PLANE, PLANE.data(1), OUTER, solver=GradientDescent(1e-12))
    assert_equal(found.grad["x"], (0.5, 1.0))


def test_the_error_of_darts_is_of_second_order_in_the_radius() -> None:
    problem, data = Logistic(), Logistic().data(3)
    exact = estimate(ONE_STEP, problem, data, problem.outer()).grad["weights"]
    errors = [
        (estimate(Darts(r), problem, data, problem.outer()).grad["weights"] - exact).norm()
        for r in (0.2, 0.1, 0.05)
    ]
    # A fourth each time, up to terms of order radius^2 relative to it.
    for coarse, fine in ((errors[0], errors[1]), (errors[1], errors[2])):
        assert 3.9 < coarse / fine < 4.1


def test_darts_from_current_weights_is_one_unrolled_step_of_each() -> None:
    problem = Quadratic()
    data, outer = problem.data(1), problem.outer_init()
    loop = InnerLoop(problem, GradientDescent(0.1), Warm())
    carries = [method.init(outer, loop.fresh(outer, data)) for method in (Darts(0.01), FULL)]
    for _ in range(3):
        darts = Darts(0.01).estimate(loop, outer, data, carries[0])
        unrolled = FULL.estimate(loop, outer, data, carries[1])
        torch.testing.assert_close(darts.grad, unrolled.grad, rtol=1e-9, atol=1e-12)
        carries = [darts.carry, unrolled.carry]


@pytest.mark.parametrize(
    "solver",
    [
        Momentum(0.1, 0.5),
        NesterovMomentum(0.1, 0.5),
        Nesterov(0.1),
        Adam(0.1, 0.9, 0.999, 1e-8),
        GradientDescent(LearnedSetting("log_lr", 0.1)),
        Aggregated(GradientDescent(0.1), 0.7, 0.3),
        DescentAggregation(Momentum(0.1, 0.5), 0.5, 0.9),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_darts_knows_the_solver_whose_step_it_differentiates(solver: InnerSolver[Any]) -> None:
    data = PLANE.data(4)
    outer = OUTER | {name: value.double() for name, value in solver.outer_init({}).items()}
    found = estimate(Darts(0.01), PLANE, data, outer, solver=solver)
    expected = estimate(ONE_STEP, PLANE, data, outer, solver=solver)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.carry, expected.carry, rtol=1e-12, atol=1e-14)


def test_sama_with_gradient_descent_is_the_step_size_times_the_identity() -> None:
    found = estimate(Sama(0.01), PLANE, PLANE.data(5), OUTER)
    # rho x + lr B'(y_5 - c), since the cross derivative of f is -B'.
    assert_equal(found.grad["x"], (0.5 + 0.1 * 3.50825, 1 + 0.1 * 2.28375))


def test_sama_with_adam_is_its_adaptive_step() -> None:
    # In its first step Adam takes lr * g / (|g| + eps): its derivative is lr eps / (|g| + eps)^2.
    eps, data = 0.5, PLANE.data(1)
    found = estimate(Sama(0.01), PLANE, data, OUTER, solver=Adam(0.1, 0.9, 0.999, eps))
    g = Plane.A @ data.init["y"] - Plane.B @ Plane.x
    y = data.init["y"] - 0.1 * g / (g.abs() + eps)
    adapted = 0.1 * eps / (g.abs() + eps) ** 2 * (y - Plane.c)
    expected = Plane.rho * Plane.x + Plane.B.T @ adapted
    torch.testing.assert_close(found.grad["x"], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", [Darts(0.01), Sama(0.01)], ids=str)
def test_where_the_outer_loss_is_flat_the_direct_term_is_left(method: Hypergradient[Any]) -> None:
    class Flat(Plane):
        def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
            return 0.0 * inner["y"].sum() + outer["x"].sum()

    assert_equal(estimate(method, Flat(), PLANE.data(2), OUTER).grad["x"], (1.0, 1.0))


@pytest.mark.parametrize("make", [Darts, Sama])
def test_a_radius_that_is_none_is_refused(make: Any) -> None:
    for radius in (0.0, float("inf")):
        with pytest.raises(ValueError, match=f"needs a finite radius > 0, got radius={radius}"):
            make(radius)


def test_bsg1_in_the_plane() -> None:
    # At y_1 = (0, 1.1): d_y F = (-1, 2.1), d_y f = (0.1, -0.7), d_x f = -B'y_1 = (-2.2, -1.1).
    ratio = (-1 * 0.1 + 2.1 * -0.7) / (0.1**2 + 0.7**2)
    found = estimate(Bsg1(), PLANE, PLANE.data(1), OUTER).grad["x"]
    assert_equal(found, (0.5 + 2.2 * ratio, 1 + 1.1 * ratio))


def test_bsg1_at_an_inner_solution_is_the_direct_term() -> None:
    # In binary fractions, for a gradient of exactly zero.
    class Dyadic(Plane):
        A, B = torch.eye(2), torch.eye(2)

    data = PLANE.data(1, (1.0, 2.0))
    assert_equal(estimate(Bsg1(), Dyadic(), data, OUTER).grad["x"], (0.5, 1.0))


SOLVERS = [GradientDescent(0.1), Momentum(0.1, 0.5), Nesterov(0.1), Adam(0.1, 0.9, 0.999, 1e-8)]


METHODS = [
    FirstOrderMaml(),
    Darts(0.01),
    Sama(0.01),
    Bsg1(),
    Iaptt(),
    FULL,
    ONE_STEP,
    Reverse(4, 2),
    Reverse(90, None),
]
CLAIMS = [
    *((method, start) for method in METHODS for start in (Cold(), Warm(), Learned())),
    (Reptile(), Learned()),  # with others it claims to be zero
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize(("method", "start"), CLAIMS, ids=str)
def test_what_a_method_claims_is_so(
    method: Hypergradient[Any], start: Start, solver: InnerSolver[Any]
) -> None:
    problem, data = Logistic(), Logistic().data(6)
    outer = problem.outer() | {"init.w": torch.linspace(-1, 1, 4)}
    held_to_its_claim(method, problem, data, outer, solver, start)


def test_a_claim_can_fail() -> None:
    problem, data = Logistic(), Logistic().data(6)
    outer, trial_of = problem.outer(), InnerLoop(Logistic(), GradientDescent(0.5), Cold())
    carry = FULL.init(outer, trial_of.fresh(outer, data))
    found = FULL.estimate(trial_of, outer, data, carry)
    trial = Trial(trial_of, outer, data, carry, found.carry["inner"]["inner"])
    for other in (ONE_STEP, Reverse(3, None), Darts(0.01), Sama(0.01), Bsg1(), NoHypergradient()):
        expected = other.claim().reference(trial)["weights"]
        assert (found.grad["weights"] - expected).norm() > 0.01 * expected.norm()


def test_without_a_method_the_claim_is_zero() -> None:
    outer = {"x": torch.ones(2)}
    loop, data = InnerLoop(PLANE, GradientDescent(0.1), Cold()), PLANE.data(2)
    trial = Trial(loop, outer, data, {"inner": loop.fresh(outer, data)}, data.init)
    assert_equal(NoHypergradient().claim().reference(trial)["x"], (0.0, 0.0))

"""Exact answers in the plane, recreated from first principles, for every method; to 1e-9."""

from typing import Any

import pytest
import torch
from exact import OUTER, PLANE, TRUNCATED, UNROLLED, OneDimensionalMaml, assert_equal, implicit
from problems import Plane, Quadratic, estimate
from sklearn.datasets import make_regression
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned

FULL = Reverse(window=None, segment=None)


def grad(method: Hypergradient[Any], steps: int, start: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    return estimate(method, PLANE, PLANE.data(steps, start), OUTER).grad["x"]


def test_the_inner_trajectory() -> None:
    loop, data = InnerLoop(PLANE, GradientDescent(lr=0.1), Cold()), PLANE.data(5)
    state = loop.fresh(OUTER, data)
    for t, point in enumerate(
        [(0, 1.1), (-0.01, 1.17), (-0.025, 1.22), (-0.042, 1.2565), (-0.05925, 1.28375)]
    ):
        state = loop.step(state, OUTER, data, t)
        assert_equal(state["inner"]["y"], point)


@pytest.mark.parametrize(("steps", "expected"), UNROLLED.items())
@pytest.mark.parametrize(
    "method",
    [FULL, Reverse(None, 1), Reverse(None, 2), Reverse(7, None), Forward()],
    ids=["one graph", "replayed", "in segments", "wide window", "forward"],
)
def test_exact_unrolled_methods(
    method: Hypergradient[Any], steps: int, expected: tuple[float, float]
) -> None:
    assert_equal(grad(method, steps), expected)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, (-1.01, 1.57)), (3, (-0.925775, 0.98455)), (5, (-0.77275475, 0.6500610625))],
)
def test_the_gradient_of_a_learned_start(steps: int, expected: tuple[float, float]) -> None:
    data = PLANE.data(steps)
    outer = OUTER | {"init.y": data.init["y"]}
    for method in (FULL, Reverse(None, 2), Forward()):
        found = estimate(method, PLANE, data, outer, Learned()).grad
        assert_equal(found["init.y"], expected)
        assert_equal(found["x"], UNROLLED[steps])


@pytest.mark.parametrize(("window", "expected"), TRUNCATED.items())
@pytest.mark.parametrize("segment", [None, 1, 2])
def test_truncated(window: int, segment: int | None, expected: tuple[float, float]) -> None:
    # Defect elsewhere: truncated steps that re-use the gradient at y_0 and leave df/dx behind.
    assert_equal(grad(Reverse(window, segment), 5), expected)


def test_the_forward_sensitivity() -> None:
    loop, data = InnerLoop(PLANE, GradientDescent(lr=0.1), Cold()), PLANE.data(5)

    def last(x: Tensor) -> Tensor:
        return loop.run(loop.fresh({"x": x}, data), {"x": x}, data)["inner"]["y"]

    found = autodiff.jacfwd(last)(Plane.x)
    expected = torch.tensor([[0.2245, -0.05925], [0.50825, 0.28375]])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Exact(damping=0.0, rtol=None), (1.6584, 2.12535)),
        (Exact(damping=0.0, rtol=1e-12), (1.6584, 2.12535)),
        (ConjugateGradient(max_steps=2, rtol=0.0), (1.6584, 2.12535)),
        (ConjugateGradient(max_steps=9, rtol=0.0), (1.6584, 2.12535)),
        (ConjugateGradient(max_steps=1, rtol=0.0), (2.203407376362319, 2.1088595726551547)),
        *((Neumann(k, step_size=0.1), expected) for k, expected in TRUNCATED.items()),
        (Neumann(4, step_size=0.1), (1.348437125, 1.630270375)),
        (Identity(), (0.5 - 0.05925 - 1 + 2 * 2.28375, 1 + 2.28375)),  # rho x + B'(y_5 - c)
    ],
    ids=str,
)
def test_implicit_at_the_fifth_iterate(solver: LinearSolver, expected: tuple[float, float]) -> None:
    assert_equal(grad(implicit(solver), 5), expected)


@pytest.mark.parametrize(
    ("damping", "expected"),
    [
        (0.0, (1.7, 2.2)),
        (0.01, (1.6952238569533276, 2.192847666382844)),
        (1.0, (1.3727272727272727, 1.7636363636363637)),
    ],
)
def test_damped_at_the_solution(damping: float, expected: tuple[float, float]) -> None:
    assert_equal(grad(implicit(Exact(damping, rtol=None)), 1, (-0.2, 1.4)), expected)


def test_every_exact_method_tends_to_the_exact_hypergradient() -> None:
    cg = implicit(ConjugateGradient(max_steps=2, rtol=0.0))
    for method in (FULL, Forward(), cg, implicit(Neumann(400, step_size=0.1))):
        assert_equal(grad(method, 400), (1.7, 2.2))
    assert_equal(estimate(FULL, PLANE, PLANE.data(400), OUTER).loss, 97 / 20)


def test_cg_does_not_depend_on_the_step_size_of_the_inner_solver() -> None:
    # Defect elsewhere: CG on I - dPhi/dz with a step size mixed into alpha.
    cg = implicit(ConjugateGradient(max_steps=2, rtol=0.0))
    for lr in (0.01, 0.1, 0.3):
        data = PLANE.data(1, (-0.2, 1.4))
        assert_equal(
            estimate(cg, PLANE, data, OUTER, solver=GradientDescent(lr)).grad["x"], (1.7, 2.2)
        )


def test_iaptt_takes_the_pessimistic_step() -> None:
    data = PLANE.data(5, (-1.0, 1.0))
    outer = OUTER | {"init.y": data.init["y"]}
    found = estimate(Iaptt(), PLANE, data, outer, Learned())
    # F - rho |x|^2 / 2 = 4.04, 4.069, 4.07285, 4.055605, 4.0248: the third is the largest.
    assert found.metrics["pessimistic_step"] == 3
    assert_equal(found.metrics["pessimistic_loss"], 4.07285 + 1.25)
    assert_equal(found.loss, 4.024828625 + 1.25)
    assert_equal(found.grad["x"], (1.18765, 1.5648))
    assert_equal(found.grad["init.y"], (-1.2409, 1.13755))


def test_iaptt_is_reverse_where_the_last_step_is_the_pessimistic_one() -> None:
    # From y_0 = (0, 1) the outer loss grows along the way to y* = (-1/5, 7/5).
    found = estimate(Iaptt(), PLANE, PLANE.data(5), OUTER)
    assert found.metrics["pessimistic_step"] == 5
    assert_equal(found.grad["x"], UNROLLED[5])


def test_the_learned_start_is_left_alone_by_the_inner_loop() -> None:
    # Defect elsewhere: z is overwritten by y_T before its own step.
    data = PLANE.data(5)
    outer = OUTER | {"init.y": data.init["y"].clone()}
    for method in (Iaptt(), FULL):
        estimate(method, PLANE, data, outer, Learned())
        assert_equal(outer["init.y"], (0.0, 1.0))


def test_without_a_method_the_gradient_is_zero_and_the_loss_is_reported() -> None:
    found = estimate(NoHypergradient(), PLANE, PLANE.data(5), OUTER)
    assert_equal(found.grad["x"], (0.0, 0.0))
    torch.testing.assert_close(found.loss, estimate(FULL, PLANE, PLANE.data(5), OUTER).loss)


@pytest.mark.parametrize("max_steps", [1, 2, 3, 10])
def test_cg_is_exact_and_stays_so_on_an_isotropic_hessian(max_steps: int) -> None:
    # Defect elsewhere: the converged iterate is dropped, and the direct term alone remains.
    problem = Quadratic(inner_dim=4)
    problem.hessian = 2 * torch.eye(4)
    data, outer = problem.data(200), problem.outer_init()
    found = estimate(implicit(ConjugateGradient(max_steps, rtol=1e-10)), problem, data, outer)
    torch.testing.assert_close(found.grad, problem.hypergradient(outer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("max_steps", [4, 5, 50])
def test_cg_keeps_the_converged_iterate(max_steps: int) -> None:
    problem = Quadratic(inner_dim=4)
    data, outer = problem.data(400), problem.outer_init()
    for rtol in (0.0, 1e-12):
        found = estimate(implicit(ConjugateGradient(max_steps, rtol)), problem, data, outer)
        torch.testing.assert_close(found.grad, problem.hypergradient(outer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("steps", "adapted", "meta"), [(1, 1.0, 8 / 5), (5, 2.1808, 1.042284544)])
def test_maml_in_one_dimension(steps: int, adapted: float, meta: float) -> None:
    data = StepData({}, {"unused": torch.zeros(steps)}, {})
    outer = {"init.w": torch.tensor(0.5)}
    for start in (Cold(), Learned()):
        found = estimate(FULL, OneDimensionalMaml(), data, outer, start)
        assert_equal(found.carry["inner"]["inner"]["w"], adapted)
        assert_equal(found.grad["init.w"], meta)


def test_imaml_in_one_dimension() -> None:
    data = StepData({}, {"unused": torch.zeros(200)}, {})
    method = implicit(ConjugateGradient(max_steps=1, rtol=0.0))
    found = estimate(method, OneDimensionalMaml(proximal=2.0), data, {"init.w": torch.tensor(0.5)})
    assert_equal(found.carry["inner"]["inner"]["w"], 7 / 4)
    assert_equal(found.grad["init.w"], 11 / 8)


class Ridge:
    """f = mean(residual^2) / 2 + lam |w|^2 / 2, and F one entry of w: its gradient is dw/dlam."""

    def __init__(self, entry: int) -> None:
        features, targets = make_regression(10, 3, random_state=0)
        self.features, self.targets = torch.tensor(features), torch.tensor(targets)
        self.entry = entry

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        residual = self.features @ inner["w"] - self.targets
        return 0.5 * residual.square().mean() + 0.5 * outer["lam"] * inner["w"].square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["w"][self.entry]


@pytest.mark.parametrize(
    "method",
    [FULL, Forward(), implicit(Exact(0.0, None)), implicit(ConjugateGradient(3, 0.0))],
    ids=["reverse", "forward", "exact", "cg"],
)
def test_the_sensitivity_of_ridge_regression(method: Hypergradient[Any]) -> None:
    data = StepData({"w": torch.zeros(3)}, {"unused": torch.zeros(300)}, {})
    outer = {"lam": torch.tensor(5.0)}
    found = [estimate(method, Ridge(entry), data, outer) for entry in range(3)]
    weights, slopes = (
        torch.stack([e.loss for e in found]),
        torch.stack([e.grad["lam"] for e in found]),
    )
    expected = torch.tensor([16.51390727, 8.20625411, 23.62360791])
    torch.testing.assert_close(weights, expected, rtol=1e-8, atol=0)
    expected = torch.tensor([-2.50171644, -1.26718286, -3.54263662])
    torch.testing.assert_close(slopes, expected, rtol=1e-8, atol=0)


class OnlineReweighting:
    """f = sum_i eps_i (x_i . w - y_i)^2 / 2 on two examples, and F the same loss of a clean one."""

    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    clean, target = torch.tensor([1.0, 1.0], dtype=torch.float64), 2.0

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (outer["eps"] * (self.x @ inner["w"] - self.y).square()).sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.clean @ inner["w"] - self.target).square()


@pytest.mark.parametrize("method", [FULL, Forward(), Reverse(1, None)], ids=str)
def test_the_weights_that_learning_to_reweight_takes(method: Hypergradient[Any]) -> None:
    # One step of 0.1 from w with eps = 0: dF/deps_i = -0.1 <grad F, grad loss_i>.
    data = StepData({"w": torch.tensor([1.0, 0.0])}, {"unused": torch.zeros(1)}, {})
    outer = {"eps": torch.zeros(2)}
    assert_equal(estimate(method, OnlineReweighting(), data, outer).grad["eps"], (0.0, 0.6))

"""Implicit methods beyond the textbook's, against exact answers and each other."""

from typing import Any

import pytest
import torch
from claims import Logistic, held_to_its_claim
from configs import composed
from exact import OUTER, PLANE, TRUNCATED, OneDimensionalMaml, assert_equal, implicit
from hydra.utils import instantiate
from problems import Plane, Quadratic, estimate
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.claim import Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.least_squares import LeastSquares
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom
from bilevel_cli.methods.fixed_point import FixedPoint
from bilevel_cli.methods.imaml import ImplicitMaml
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.warm import Warm

Y_STAR = (-0.2, 1.4)
GD = GradientDescent(0.1)


@pytest.mark.parametrize("rank", [2, 20])
@pytest.mark.parametrize(
    ("damping", "expected"),
    [
        (0.01, (1.6952238569533276, 2.192847666382844)),
        (1.0, (1.3727272727272727, 1.7636363636363637)),
    ],
)
def test_nystrom_of_full_rank_is_the_damped_inverse(
    damping: float, expected: tuple[float, float], rank: int
) -> None:
    data = PLANE.data(1, Y_STAR)
    method = implicit(Nystrom(rank, damping))
    for seed in range(3):
        noise = method.draw(OUTER, torch.Generator().manual_seed(seed))
        found = estimate(method, PLANE, data._replace(noise=noise), OUTER)
        assert_equal(found.grad["x"], expected)


def test_nystrom_of_one_column_in_the_plane() -> None:
    # C = (2, 1) and M = 2, so H_r = [[2, 1], [1, 1/2]]; with y* - c = (-6/5, 12/5) and damping 1
    # the inverse of [[3, 1], [1, 3/2]] gives v = (-6/5 * 3/2 - 12/5, 6/5 + 3 * 12/5) / (7/2).
    v = torch.tensor([-4.2, 8.4]) / 3.5
    assert_equal(v, (-1.2, 2.4))  # an eigenvector: what the column leaves out is damping alone
    found = estimate(implicit(Nystrom(1, 1.0)), PLANE, PLANE.data(1, Y_STAR), OUTER).grad["x"]
    torch.testing.assert_close(found, Plane.rho * Plane.x + Plane.B.T @ v, rtol=1e-9, atol=0)


def test_minres_in_the_plane() -> None:
    # Exact in two products, as the adjoint of the fifth iterate is with conjugate gradient.
    for steps in (2, 9):
        found = estimate(implicit(MinimumResidual(steps, 0.0)), PLANE, PLANE.data(5), OUTER)
        assert_equal(found.grad["x"], (1.6584, 2.12535))


class Saddle(Plane):
    """The plane with an indefinite Hessian: y* is a saddle, where all formulas hold the same."""

    A = torch.tensor([[2.0, 1.0], [1.0, -1.0]], dtype=torch.float64)


def test_minres_solves_for_the_adjoint_at_a_saddle_where_cg_stops() -> None:
    y = torch.linalg.solve(Saddle.A, Saddle.B @ Plane.x)
    adjoint = torch.linalg.solve(Saddle.A, y - Saddle.c)
    expected = Plane.rho * Plane.x + Saddle.B.T @ adjoint
    data = StepData({"y": y}, {"unused": torch.zeros(1)}, {})
    minres, cg = implicit(MinimumResidual(2, 0.0)), implicit(ConjugateGradient(2, 0.0))
    torch.testing.assert_close(
        estimate(minres, Saddle(), data, OUTER).grad["x"], expected, rtol=1e-9, atol=0
    )
    assert (estimate(cg, Saddle(), data, OUTER).grad["x"] - expected).norm() > 0.1


class Singular(Quadratic):
    """The quadratic with a direction in which the inner loss is flat."""

    def __init__(self) -> None:
        super().__init__()
        eigenvalues, vectors = torch.linalg.eigh(self.hessian)
        eigenvalues[0] = 0.0
        self.hessian = vectors * eigenvalues @ vectors.T


def test_galet_tends_to_the_response_of_smallest_norm_of_a_singular_hessian() -> None:
    problem = Singular()
    data, outer = problem.data(5), problem.outer_init()
    expected = estimate(implicit(Exact(0.0, 1e-10)), problem, data, outer).grad["lam"]
    # The eigenvalues besides zero lie in [1.8, 5]: with step_size 0.2 the error contracts by
    # 1 - (0.2 * 1.8)^2 = 0.87 a step, and 200 steps leave 1e-12 of it.
    found = estimate(implicit(LeastSquares(200, 0.2)), problem, data, outer).grad["lam"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    # Conjugate gradient has no solution to go to, for what F asks of the flat direction.
    cg = estimate(implicit(ConjugateGradient(200, 0.0)), problem, data, outer).grad["lam"]
    assert (cg - expected).norm() > 1e-3 * expected.norm()


class Line:
    """f = (a.z - lambda)^2 / 2 in the plane: a line of minimisers, a Hessian of rank one."""

    a = torch.tensor([1.0, 2.0], dtype=torch.float64)
    goal = torch.tensor([3.0, 1.0], dtype=torch.float64)

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.a @ inner["z"] - outer["lam"]) ** 2

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - self.goal).square().sum()


def test_on_a_line_of_minimisers_galet_finds_the_response_of_least_norm_and_cg_stops() -> None:
    problem, outer = Line(), {"lam": torch.tensor(0.7)}
    data = StepData({"z": torch.tensor([0.5, -0.3])}, {"unused": torch.zeros(300)}, {})
    # Gradient descent ends at the nearest point of the line, which moves by a / |a|^2.
    ended = data.init["z"] + problem.a * (0.7 - problem.a @ data.init["z"]) / 5
    expected = problem.a @ (ended - problem.goal) / 5
    for solver in (LeastSquares(100, 0.2), Exact(0.0, 1e-10)):
        found = estimate(implicit(solver), problem, data, outer).grad["lam"]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    # What F asks leaves the range of the Hessian, the multiples of a.
    cg = estimate(implicit(ConjugateGradient(10, 0.0)), problem, data, outer)
    assert cg.metrics["adjoint_stopped"] == 1
    assert (cg.grad["lam"] - expected).abs() > 0.1 * expected.abs()


def test_a_warm_adjoint_makes_one_least_squares_step_enough() -> None:
    problem = Quadratic()
    data, outer = problem.data(1), problem.outer_init()
    method = Implicit(LeastSquares(1, 0.2), warm_adjoint=True, curvature="hessian", clip=None)
    loop = InnerLoop(problem, GD, Warm())
    carry = method.init(outer, loop.fresh(outer, data))
    for _ in range(800):  # the inner error falls by 0.9 each, that of the adjoint by 1 - 0.2^2
        found = method.estimate(loop, outer, data, carry)
        carry = found.carry
    torch.testing.assert_close(found.grad, problem.hypergradient(outer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_fixed_point_in_the_plane_is_neumann_of_as_many_terms(terms: int) -> None:
    found = estimate(FixedPoint(terms, warm_adjoint=False), PLANE, PLANE.data(5), OUTER)
    assert_equal(found.grad["x"], TRUNCATED[terms])
    neumann = estimate(implicit(Neumann(terms, 0.1)), PLANE, PLANE.data(5), OUTER)
    torch.testing.assert_close(found.grad, neumann.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "solver", [GradientDescent(1.0), Momentum(1.0, 0.5)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("terms", [1, 2, 5, 30])
def test_fixed_point_at_an_inner_solution_is_truncated_backpropagation(
    solver: InnerSolver[Any], terms: int
) -> None:
    problem, outer = Logistic(), Logistic().outer()
    data = problem.data(300)  # contracts by 0.9 a step
    fixed_point, truncated = (
        estimate(method, problem, data, outer, solver=solver)
        for method in (FixedPoint(terms, warm_adjoint=False), Reverse(terms, None))
    )
    torch.testing.assert_close(fixed_point.grad, truncated.grad, rtol=1e-9, atol=1e-12)


def test_fixed_point_tends_to_the_hypergradient_with_momentum_too() -> None:
    problem = Quadratic()
    data, outer = problem.data(300), problem.outer_init()
    for solver in (GD, Momentum(0.1, 0.5)):
        found = estimate(FixedPoint(300, False), problem, data, outer, solver=solver)
        torch.testing.assert_close(found.grad, problem.hypergradient(outer), rtol=1e-9, atol=1e-12)


def test_a_warm_fixed_point_goes_on_where_the_last_one_ended() -> None:
    problem = Quadratic()
    data, outer = problem.data(300), problem.outer_init()
    loop = InnerLoop(problem, Momentum(0.1, 0.5), Cold())
    warm, cold = FixedPoint(5, warm_adjoint=True), FixedPoint(15, warm_adjoint=False)
    carry = warm.init(outer, loop.fresh(outer, data))
    for _ in range(3):
        found = warm.estimate(loop, outer, data, carry)
        carry = found.carry
    expected = cold.estimate(loop, outer, data, cold.init(outer, loop.fresh(outer, data)))
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-14)


MAML = OneDimensionalMaml()
THETA = {"init.w": torch.tensor(0.5, dtype=torch.float64)}


@pytest.mark.parametrize("start", [Cold(), Learned()], ids=["of the task", "of the policy"])
def test_implicit_maml_in_one_dimension(start: Learned | Cold) -> None:
    method = ImplicitMaml(
        ConjugateGradient(1, 0.0), warm_adjoint=False, curvature="hessian", clip=None, strength=2.0
    )
    data = StepData({}, {"unused": torch.zeros(200)}, {})
    found = estimate(method, MAML, data, THETA, start)
    assert_equal(found.carry["inner"]["inner"]["w"], 7 / 4)
    assert_equal(found.grad["init.w"], 11 / 8)


def test_implicit_maml_serves_a_problem_whose_losses_hide_the_start() -> None:
    data = StepData({}, {"unused": torch.zeros(2)}, {})
    loop = InnerLoop(MAML, GD, Cold())
    solver = ConjugateGradient(1, 0.0)
    with pytest.raises(ValueError, match="act through the start alone"):
        implicit(solver).check(loop, THETA, data)
    ImplicitMaml(solver, False, "hessian", None, strength=2.0).check(loop, THETA, data)


def test_implicit_maml_is_unrolling_the_proximal_problem_to_its_end() -> None:
    # With features that episodes share: a direct part of both losses besides the start.
    class Proximal(Quadratic):
        def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
            drift = inner["z"] - outer["init.z"]
            return super().inner_loss(inner, outer, batch) + 0.7 * drift.square().sum()

    plain, proximal = Quadratic(), Proximal()
    data = plain.data(300)
    outer = plain.outer_init() | {"init.z": torch.linspace(-1, 1, 6)}
    method = ImplicitMaml(ConjugateGradient(6, 0.0), False, "hessian", None, strength=1.4)
    found = estimate(method, plain, data, outer, Learned())
    unrolled = estimate(Reverse(None, None), proximal, data, outer, Learned())
    torch.testing.assert_close(found.grad, unrolled.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf")])
def test_implicit_maml_refuses_a_strength_that_is_none(strength: float) -> None:
    with pytest.raises(ValueError, match=r"needs a finite strength > 0.*method=cg"):
        ImplicitMaml(Identity(), False, "hessian", None, strength)


def test_fixed_point_refuses_no_terms() -> None:
    with pytest.raises(ValueError, match=r"FixedPoint needs max_steps >= 1.*method=identity"):
        FixedPoint(0, warm_adjoint=False)


def test_presets_are_what_their_names_say() -> None:
    def preset(name: str) -> Hypergradient[Any]:
        method = instantiate(composed("task=quadratic", f"method={name}").method)
        assert isinstance(method, Hypergradient)
        return method

    found = {name: preset(name) for name in ("nystrom", "minres", "galet")}
    kinds = {n: type(m.linear_solver) for n, m in found.items() if isinstance(m, Implicit)}
    assert kinds == {"nystrom": Nystrom, "minres": MinimumResidual, "galet": LeastSquares}
    assert "learned" in composed("task=meta", "method=imaml").start._target_


LINEAR_SOLVERS: list[LinearSolver] = [
    ConjugateGradient(2, 0.0),
    ConjugateGradient(10, 1e-6),
    ConjugateGradient(10, 0.3),
    MinimumResidual(2, 0.0),
    MinimumResidual(10, 1e-6),
    MinimumResidual(10, 0.3),
    Neumann(3, 0.1),
    LeastSquares(3, 0.5),
    Exact(0.0, None),
    Exact(0.3, None),
    Exact(0.0, 1e-6),
    Identity(),
    Nystrom(2, 0.1),
    Nystrom(20, 0.1),
]
EXTRAS: list[Hypergradient[Any]] = [
    *map(implicit, LINEAR_SOLVERS),
    FixedPoint(1, False),
    FixedPoint(6, False),
    ImplicitMaml(ConjugateGradient(3, 0.0), False, "hessian", None, 0.7),
]


@pytest.mark.parametrize("solver", [GD, Momentum(0.1, 0.5), Adam(0.1, 0.9, 0.999, 1e-8)], ids=str)
@pytest.mark.parametrize("method", EXTRAS, ids=str)
def test_what_an_implicit_method_claims_is_so(
    method: Hypergradient[Any], solver: InnerSolver[Any]
) -> None:
    problem = Logistic()
    noise = method.draw(problem.outer(), torch.Generator().manual_seed(1))
    data = problem.data(6)._replace(noise=noise)
    outer = problem.outer() | {"init.w": torch.linspace(-1, 1, 4)}
    held_to_its_claim(method, problem, data, outer, solver, Learned())


@pytest.mark.parametrize(
    "method",
    [
        Implicit(ConjugateGradient(2, 1e-9), True, "hessian", None),
        Implicit(MinimumResidual(2, 1e-9), True, "hessian", None),
        Implicit(Neumann(3, 0.5), True, "hessian", None),
        Implicit(LeastSquares(3, 0.5), True, "hessian", None),
        FixedPoint(3, True),
    ],
    ids=str,
)
def test_a_warm_adjoint_tends_to_what_it_claims(method: Hypergradient[Any]) -> None:
    problem, loop = Logistic(), InnerLoop(Logistic(), GradientDescent(0.5), Warm())
    data, outer = problem.data(6), problem.outer()
    carry, claim = method.init(outer, loop.fresh(outer, data)), method.claim()
    assert (claim.kind, method.remembers) == ("limit", True)
    assert isinstance(claim.tolerance, float)
    errors = []
    for number in range(claim.repeats):
        found = method.estimate(loop, outer, data, carry)
        if number in (0, claim.repeats - 1):
            last = found.carry["inner"]["inner"]
            expected = claim.reference(Trial(loop, outer, data, carry, last))
            gap = trees.axpy(-1.0, expected, found.grad)
            errors.append(float(trees.norm(gap) / trees.norm(expected)))
        carry = found.carry
    assert errors[0] > 10 * claim.tolerance
    assert errors[-1] <= claim.tolerance


def test_claims_of_linear_solvers_differ_from_each_other() -> None:
    # So that none of them would pass for another.
    problem = Logistic()
    data, outer = problem.data(6), problem.outer()
    loop = InnerLoop(problem, GD, Cold())
    carry = EXTRAS[0].init(outer, loop.fresh(outer, data))
    last = loop.run(loop.fresh(outer, data), outer, data)["inner"]
    references = [
        implicit(solver).claim().reference(Trial(loop, outer, data, carry, last))["weights"]
        for solver in (
            ConjugateGradient(2, 0.0),
            MinimumResidual(2, 0.0),
            Neumann(3, 0.1),
            LeastSquares(3, 0.5),
            Exact(0.0, None),
            Exact(0.3, None),
            Identity(),
            Nystrom(2, 0.1),
        )
    ]
    for number, one in enumerate(references):
        for other in references[:number]:
            assert (one - other).norm() > 1e-4 * one.norm()

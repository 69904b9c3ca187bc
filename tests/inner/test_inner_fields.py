"""Inner problems that are vector fields: roots in closed form, and what is refused."""

from typing import Any

import pytest
import torch
from configs import class_of, composed, one_in, options
from hydra.utils import instantiate
from problems import estimate
from torch import Tensor

from bilevel_cli.checks.verdict import check
from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.dense import power_sum
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.requirements import a_minimiser, an_inner_loss
from bilevel_cli.core.sets import Box
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver, Nonsymmetric, transposed
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.least_squares import LeastSquares
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom
from bilevel_cli.methods.fixed_point import FixedPoint
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.projected import Projected
from bilevel_cli.solvers.weight_decay import WeightDecay
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm

DECAY, BOUND = 0.5, 0.3
TURN = torch.tensor([[1.5, 2.0, 0.0], [-1.0, 1.5, 1.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
PUSH = torch.tensor([[1.0, -0.5], [0.3, 1.0], [0.0, 0.7]], dtype=torch.float64)
GOAL = torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64)
OUTER = {"lam": torch.tensor([0.6, -0.9], dtype=torch.float64)}


class Turning(Task):
    """G = M z - B lambda with an M that is not symmetric, and F = |z - goal|^2 / 2."""

    def init_outer(self, generator: torch.Generator) -> Params:
        return dict(OUTER)

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return StepData({"z": torch.zeros_like(GOAL)}, {"unused": torch.zeros(num_steps)}, {})

    def inner_field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        return {"z": TURN @ inner["z"] - PUSH @ outer["lam"]}

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * self.inner_field(inner, outer, batch)["z"].square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - GOAL).square().sum()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        return {"value": self.outer_loss(inner, outer, {})}


def closed_form(matrix: Tensor) -> Tensor:
    """dF/dlambda at the root of M z = B lambda."""
    root = torch.linalg.solve(matrix, PUSH @ OUTER["lam"])
    return PUSH.T @ torch.linalg.solve(matrix.T, root - GOAL)


def implicit(solver: LinearSolver) -> Implicit:
    return Implicit(solver, warm_adjoint=False, curvature="hessian", clip=None)


# I - lr M contracts by 0.83 at most a step.
SERVING: dict[str, Any] = {
    "exact": implicit(Exact(0.0, None)),
    "pseudo_inverse": implicit(Exact(0.0, 1e-10)),
    "neumann": implicit(Neumann(200, 0.2)),
    "least_squares": implicit(LeastSquares(1000, 0.4)),
    "fixed_point": FixedPoint(200, warm_adjoint=False),
    "reverse": Reverse(window=None, segment=None),
}


@pytest.mark.parametrize("name", SERVING)
def test_a_method_that_serves_a_field_solves_with_the_transposed_jacobian(name: str) -> None:
    task, gd = Turning(), GradientDescent(0.2)
    data = task.sample(200, torch.Generator())
    for solver, matrix in (
        (gd, TURN),
        (WeightDecay(gd, DECAY), TURN + DECAY * torch.eye(3)),
    ):
        found = estimate(SERVING[name], task, data, OUTER, solver=solver).grad["lam"]
        torch.testing.assert_close(found, closed_form(matrix), rtol=1e-10, atol=1e-12)
        wrong = closed_form(matrix.T)  # what a symmetric matrix would let pass
        assert (found - wrong).norm() > 0.1 * wrong.norm()


def test_entries_that_a_box_holds_do_not_respond_to_a_field() -> None:
    task, data = Turning(), Turning().sample(300, torch.Generator())
    solver = Projected(GradientDescent(0.2), Box(-BOUND, BOUND))
    for name in ("exact", "pseudo_inverse", "neumann", "least_squares", "fixed_point"):
        found = estimate(SERVING[name], task, data, OUTER, solver=solver)
        z = found.carry["inner"]["inner"]["z"]
        free = z.abs() < BOUND
        assert 0 < int(free.sum()) < 3
        adjoint = torch.linalg.solve(TURN[free][:, free].T, (z - GOAL)[free])
        torch.testing.assert_close(found.grad["lam"], PUSH[free].T @ adjoint, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "solver", [ConjugateGradient(5, 0.0), MinimumResidual(5, 0.0), Nystrom(3, 0.1)], ids=str
)
def test_a_solver_that_needs_a_symmetric_matrix_refuses_a_field_by_name(
    solver: LinearSolver,
) -> None:
    task = Turning()
    loop = InnerLoop(task, GradientDescent(0.2), Cold())
    needs = f"{type(solver).__name__} needs the gradient of an inner loss, got the field of Turning"
    with pytest.raises(ValueError, match=needs):
        implicit(solver).check(loop, OUTER, task.sample(1, torch.Generator()))


@pytest.mark.parametrize(
    "name", [one_in(4, number, name) for number, name in enumerate(options("method"))]
)
def test_every_method_is_right_about_a_field_or_refuses_it(name: str) -> None:
    config = composed("task=quadratic", f"method={name}", "device=cpu", "device.dtype=float64")
    task = Turning()
    loop = InnerLoop(task, GradientDescent(0.2), Warm())
    found = check(instantiate(config.method), loop, task, 8, seed=0)
    if {a_minimiser, an_inner_loss} & {*class_of("method", name).requires}:
        assert found.verdict == "refused"
        assert "the field of Turning, which is the gradient of none" in found.reason
    else:
        assert found.verdict == "ok" or "method=" in found.reason, found


# --- linear solvers -------------------------------------------------------------------------------


def general(size: int = 6, rank: int | None = None) -> Tensor:
    matrix = torch.eye(size) + 0.3 * torch.randn(size, size)
    if rank is None:
        return matrix
    left, values, right = torch.linalg.svd(matrix)
    return left[:, :rank] * values[:rank] @ right[:rank]


@pytest.mark.parametrize("rank", [None, 4])
def test_the_pseudo_inverse_is_that_of_a_matrix_that_is_not_symmetric(rank: int | None) -> None:
    matrix, rhs = general(rank=rank), torch.randn(6)
    expected = torch.linalg.pinv(matrix, rtol=1e-10) @ rhs
    product, guess = Nonsymmetric(lambda v: matrix @ v), torch.zeros(6)
    for solver in (Exact(0.0, 1e-10), LeastSquares(2000, 0.4)):
        found = solver.solve(product, rhs, guess).solution
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        own = solver.inverse(matrix, rhs, 1) @ rhs
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-8)


def test_products_with_the_transposed_matrix_are_found_from_those_with_the_matrix() -> None:
    matrix, vector = general(), torch.randn(6)

    def product(v: Tensor) -> Tensor:
        return matrix @ v

    assert transposed(product, vector) is product
    found = transposed(Nonsymmetric(product), vector)(vector)
    torch.testing.assert_close(found, matrix.T @ vector)
    mapped = autodiff.vmap(lambda v: transposed(Nonsymmetric(product), v)(v))(matrix)
    torch.testing.assert_close(mapped, matrix @ matrix)


@pytest.mark.parametrize("terms", [1, 2, 7, 12])
def test_a_sum_of_powers_by_doubling_is_the_sum(terms: int) -> None:
    matrix = general()
    expected = sum(torch.linalg.matrix_power(matrix, n) for n in range(terms))
    torch.testing.assert_close(power_sum(matrix, terms), expected)
    found = Neumann(terms, 0.3).inverse(matrix, torch.zeros(6), 2)
    steps = 0.3 * sum(
        torch.linalg.matrix_power(torch.eye(6) - 0.3 * matrix, n) for n in range(2 * terms)
    )
    torch.testing.assert_close(found, steps)


def test_a_field_is_told_from_the_gradient_of_a_loss_through_decay() -> None:
    task = Turning()
    loop = InnerLoop(task, WeightDecay(GradientDescent(0.2), DECAY), Cold())
    data = task.sample(1, torch.Generator())
    with pytest.raises(ValueError, match="got the field of Turning"):
        an_inner_loss("Somebody", loop, OUTER, data)
    assert trees.size(data.init) == 3

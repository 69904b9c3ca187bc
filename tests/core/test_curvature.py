"""Conjugate gradient where the inner Hessian is singular or indefinite: it ends, and says so."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from claims import held_to_its_claim
from problems import Quadratic, Several, estimate
from runners import built
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.claim import NoSolution
from bilevel_cli.core.episodes import over_episodes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.linear_solvers.base import LinearSolver, Solved
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold

SIZE = 6
SPECTRA = {
    "singular": (0.0, 0.0, 1.0, 2.0, 3.0, 5.0),
    "indefinite": (-2.0, -0.5, 1.0, 2.0, 3.0, 5.0),
    "negative": (-5.0, -4.0, -3.0, -2.0, -1.5, -1.0),
    "zero": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
SEEDS = range(10)


def matrix_of(spectrum: tuple[float, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))[0]
    matrix = vectors * torch.tensor(spectrum) @ vectors.T
    return (matrix + matrix.T) / 2


def rhs_of(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(1000 + seed))


def solve(solver: LinearSolver, matrix: Tensor, rhs: Tensor) -> Solved:
    return solver.solve(lambda v: matrix @ v, rhs, torch.zeros_like(rhs))


def stopped(found: Solved) -> float:
    return float(found.metrics["adjoint_stopped"])


def iterates(matrix: Tensor, rhs: Tensor, steps: int) -> Iterator[Tensor]:
    """The iterates of conjugate gradient from zero, while H is positive definite on their spaces.

    By dense algebra: iterate k is stationary on the Krylov space of dimension k.
    """
    yield torch.zeros_like(rhs)
    powers = [rhs / rhs.norm()]
    for _ in range(min(steps, SIZE)):
        space = torch.linalg.qr(torch.stack(powers, dim=1))[0]
        projected = space.T @ matrix @ space
        if torch.linalg.eigvalsh(projected)[0] <= 1e-9:
            return
        yield space @ torch.linalg.solve(projected, space.T @ rhs)
        power = matrix @ powers[-1]
        powers.append(power / power.norm())


def best_iterate(matrix: Tensor, rhs: Tensor, steps: int) -> Tensor:
    return min(iterates(matrix, rhs, steps), key=lambda v: float((rhs - matrix @ v).norm()))


@pytest.mark.parametrize("condition", [1.0, 5.0, 1e4])
@pytest.mark.parametrize("steps", [1, 3, 10, 60])
def test_a_positive_definite_system_is_solved_as_the_textbook_does_bit_for_bit(
    steps: int, condition: float
) -> None:
    for seed in SEEDS:
        matrix = matrix_of(tuple(torch.logspace(0, 1, SIZE) ** torch.tensor(condition).log10()), 0)
        rhs = rhs_of(seed)
        v, residual = torch.zeros_like(rhs), rhs - matrix @ torch.zeros_like(rhs)
        direction, norm2, target = residual, residual @ residual, 1e-6**2 * (rhs @ rhs)
        for _ in range(steps):
            if norm2 <= target:
                break
            product = matrix @ direction
            step = norm2 / (direction @ product)
            v, residual = v + step * direction, residual - step * product
            before, norm2 = norm2, residual @ residual
            direction = residual + norm2 / before * direction
        found = solve(ConjugateGradient(steps, 1e-6), matrix, rhs)
        assert torch.equal(found.solution, v)
        assert stopped(found) == 0


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [SIZE + 1, 10, 100])
@pytest.mark.parametrize("rtol", [0.0, 1e-6])
def test_where_it_stops_it_keeps_the_iterate_of_smallest_residual(
    name: str, steps: int, rtol: float
) -> None:
    for seed in SEEDS:
        matrix, rhs = matrix_of(SPECTRA[name], seed), rhs_of(seed)
        found = solve(ConjugateGradient(steps, rtol), matrix, rhs)
        # Digits go with the condition of the projected matrices, where a Ritz value nears zero.
        expected = best_iterate(matrix, rhs, steps)
        assert (found.solution - expected).norm() <= 1e-6 * (rhs.norm() + expected.norm())
        assert stopped(found) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", ["singular", "indefinite", "negative"])
def test_where_it_stops_the_residual_is_at_most_that_of_the_guess(
    name: str, scale: float, dtype: torch.dtype
) -> None:
    for seed in SEEDS:
        matrix, rhs = (scale * matrix_of(SPECTRA[name], seed)).to(dtype), rhs_of(seed).to(dtype)
        found = solve(ConjugateGradient(100, 1e-6), matrix, rhs)
        residual = (matrix.double() @ found.solution.double() - rhs.double()).norm()
        # Residuals of the recurrence drift from true ones by eps times their largest, eps^-1/2.
        assert residual <= rhs.norm().double() * (1 + 100 * torch.finfo(dtype).eps ** 0.5)
        assert stopped(found) == 1
        assert found.metrics["adjoint_stopped"].dtype == dtype


def test_a_singular_system_with_a_right_hand_side_in_its_range_is_solved_in_silence() -> None:
    for seed in SEEDS:
        matrix = matrix_of(SPECTRA["singular"], seed)
        rhs = matrix @ rhs_of(seed)
        expected = torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True) @ rhs
        for steps, rtol in ((4, 0.0), (10, 1e-9), (100, 1e-9), (100, 0.0)):
            found = solve(ConjugateGradient(steps, rtol), matrix, rhs)
            torch.testing.assert_close(found.solution, expected, rtol=1e-6, atol=1e-6)
            assert stopped(found) == 0


def test_a_residual_that_grows_without_bound_stops_the_solve() -> None:
    # No direction without curvature: the first has 2e-18 of |b|^2, beside nothing to compare with.
    matrix, rhs = torch.diag(torch.tensor([1.0, 1e-30])), torch.tensor([1e-9, 1.0])
    for steps in (1, 2, 10):
        found = solve(ConjugateGradient(steps, 1e-6), matrix, rhs)
        assert torch.equal(found.solution, torch.zeros(2))
        assert stopped(found) == 1
    # A temporary peak, of sqrt(condition) at most, is none.
    matrix = torch.diag(torch.tensor([1.0, 1e-2, 1e-4]))
    rhs = torch.tensor([1e-2, 1.0, 1.0])
    residuals = [
        float((rhs - matrix @ solve(ConjugateGradient(k, 1e-6), matrix, rhs).solution).norm())
        for k in (1, 2, 3)
    ]
    assert residuals[0] > rhs.norm() > 1e-6 > residuals[-1]
    assert any(after > before for before, after in pairwise([float(rhs.norm()), *residuals]))


def test_a_guess_that_no_iterate_betters_is_kept() -> None:
    matrix, rhs = torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([1.0, 5.0])
    guess = torch.tensor([1.0, 3.0])  # solves for all that can be solved
    found = ConjugateGradient(10, 1e-6).solve(lambda v: matrix @ v, rhs, guess)
    assert torch.equal(found.solution, guess)
    assert stopped(found) == 1


def test_mapped_solves_end_as_single_ones_do() -> None:
    definite = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
    matrices = torch.stack([matrix_of(s, 3) for s in (definite, *SPECTRA.values())])
    rhs = torch.stack([rhs_of(seed) for seed in range(len(matrices))])

    def one(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
        found = solve(ConjugateGradient(10, 1e-6), matrix, rhs)
        return found.solution, found.metrics["adjoint_stopped"]

    single = [one(m, r) for m, r in zip(matrices, rhs, strict=True)]
    solutions, ends = autodiff.vmap(one)(matrices, rhs)
    torch.testing.assert_close(solutions, torch.stack([solution for solution, _ in single]))
    assert ends.tolist() == [float(end) for _, end in single] == [0.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("solver", [ConjugateGradient(9, 0.0), MinimumResidual(9, 0.0)], ids=str)
def test_repeated_solves_have_no_limit_to_compare_with_at_a_singular_hessian(
    solver: LinearSolver, name: str
) -> None:
    matrix, rhs = matrix_of(SPECTRA[name], 0), rhs_of(0)
    if isinstance(solver, MinimumResidual) and name in ("indefinite", "negative"):
        inverse = solver.inverse(matrix, rhs, rounds=2)
        torch.testing.assert_close(inverse @ matrix, torch.eye(SIZE), rtol=1e-9, atol=1e-9)
        return
    with pytest.raises(NoSolution, match=r"to have a limit|too close to singular"):
        solver.inverse(matrix, rhs, rounds=2)


class Curved(Quadratic):
    """The quadratic with a Hessian of a given spectrum; z is where the inner loop begins."""

    def __init__(self, spectrum: tuple[float, ...]) -> None:
        super().__init__()
        self.hessian = matrix_of(spectrum, 0)

    def data(self, num_steps: int, start: Tensor | None = None) -> StepData:
        data = super().data(num_steps)
        return data if start is None else data._replace(init={"z": start})


def implicit(solver: LinearSolver) -> Implicit:
    return Implicit(solver, warm_adjoint=False, curvature="hessian", clip=None)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_hypergradient_at_such_a_hessian_is_that_of_the_best_iterate(
    name: str,
) -> None:
    problem, method = Curved(SPECTRA[name]), implicit(ConjugateGradient(20, 1e-6))
    outer = problem.outer_init()
    found = estimate(method, problem, problem.data(3), outer)
    z = found.carry["inner"]["inner"]["z"]
    adjoint = best_iterate(problem.hessian, z - problem.target, 20)
    expected = problem.coupling.T @ adjoint
    torch.testing.assert_close(found.grad["lam"], expected, rtol=1e-6, atol=1e-8)
    residual = (problem.hessian @ adjoint - z + problem.target).norm() / (z - problem.target).norm()
    torch.testing.assert_close(found.metrics["adjoint_residual"], residual, rtol=1e-6, atol=1e-8)
    assert float(found.metrics["adjoint_stopped"]) == 1


def test_a_right_hand_side_in_the_range_of_a_singular_hessian_is_served() -> None:
    problem = Curved(SPECTRA["singular"])
    # At z = target + H w the outer slope is H w.
    start = problem.target + problem.hessian @ rhs_of(0)
    data = StepData({"z": start}, {"scale": torch.zeros(1)}, {})
    still = GradientDescent(1e-300)
    cg, exact = implicit(ConjugateGradient(20, 1e-9)), implicit(Exact(0.0, 1e-9))
    found, expected = (
        estimate(method, problem, data, problem.outer_init(), solver=still)
        for method in (cg, exact)
    )
    torch.testing.assert_close(found.grad["lam"], expected.grad["lam"], rtol=1e-7, atol=1e-9)
    assert float(found.metrics["adjoint_stopped"]) == 0


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [3, 10, 100])
def test_what_it_claims_at_such_a_hessian_is_so(name: str, steps: int) -> None:
    problem = Curved(SPECTRA[name])
    held_to_its_claim(
        implicit(ConjugateGradient(steps, 1e-6)),
        problem,
        problem.data(3),
        problem.outer_init(),
        GradientDescent(0.1),
    )


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_fewer_examples_than_weights_end_below_the_residual_of_no_solve(steps: int) -> None:
    # A head without ridge: its Krylov space is not exhausted, and no direction is flat yet.
    generator = torch.Generator().manual_seed(0)
    problem = Quadratic(60, 3)
    features = torch.randn(30, 60, generator=generator)
    problem.hessian = features.T @ features / 60
    problem.target = torch.randn(60, generator=generator)
    data, outer = problem.data(3), problem.outer_init()
    method = implicit(ConjugateGradient(steps, 1e-6))
    found = estimate(method, problem, data, outer)
    assert float(found.metrics["adjoint_residual"]) <= 1 + 1e-9
    assert float(found.metrics["adjoint_stopped"]) == 1
    held_to_its_claim(method, problem, data, outer, GradientDescent(0.1))


def test_mapped_inner_problems_report_the_share_in_which_it_stopped() -> None:
    class Mixed(Several):
        def inner_loss(self, inner: Any, outer: Any, batch: Any) -> Tensor:
            z = inner["z"]
            tilt = z @ self.coupling @ outer["lam"]
            return 0.5 * z @ batch["hessian"] @ z - batch["scale"] * tilt

    problem, method = Mixed(), implicit(ConjugateGradient(10, 1e-6))
    loop, outer = InnerLoop(problem, GradientDescent(0.1), Cold()), problem.outer_init()
    matrices = [matrix_of(s, 1) for s in ((1.0,) * 6, SPECTRA["singular"], SPECTRA["indefinite"])]
    data = problem.data(2)
    hessians = torch.stack(matrices)[:, None].expand(3, 2, SIZE, SIZE)
    data = data._replace(inner={**data.inner, "hessian": hessians})
    carry: Any = {"inner": {"inner": data.init}, "adjoint": {"z": torch.zeros(3, SIZE)}}

    def one(outer: Any, data: StepData, carry: Any) -> Any:
        return method.estimate(loop, outer, data, carry)

    found = over_episodes(one)(outer, data, carry)
    mapped = autodiff.vmap(lambda data, carry: one(outer, data, carry)[0]["lam"])(
        data._replace(noise={}), carry
    )
    torch.testing.assert_close(found.grad["lam"], mapped.mean(0), rtol=1e-9, atol=1e-12)
    assert float(found.metrics["adjoint_stopped"]) == pytest.approx(2 / 3)


def test_a_follower_with_many_best_responses_no_longer_ends_the_run(tmp_path: Path) -> None:
    run = built(tmp_path, "task=bda_toy", "method=cg", "outer_steps=100")
    run.run()
    table = pd.read_csv(run.rows.train.path)
    assert table.notna().all(axis=None)
    assert (table["adjoint_stopped"] == 1).all()
    assert table["adjoint_residual"].max() <= 1 + 1e-6

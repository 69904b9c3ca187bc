"""Linear solvers, against torch.linalg."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from waits import nobody_waits

from bilevel_cli.core import autodiff, dense
from bilevel_cli.core.claim import NoSolution
from bilevel_cli.core.method import CannotServe
from bilevel_cli.linear_solvers.base import LinearSolver, Solved
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.least_squares import LeastSquares
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom


def spd(size: int = 8) -> Tensor:
    vectors = torch.linalg.qr(torch.randn(size, size))[0]
    return vectors * torch.linspace(1.0, 5.0, size) @ vectors.T


def solve(solver: LinearSolver, matrix: Tensor, rhs: Tensor, guess: Tensor | None = None) -> Tensor:
    return ended(solver, matrix, rhs, guess).solution


def ended(solver: LinearSolver, matrix: Tensor, rhs: Tensor, guess: Tensor | None = None) -> Solved:
    guess = torch.zeros_like(rhs) if guess is None else guess
    return solver.solve(lambda v: matrix @ v, rhs, guess)


def test_cg_is_exact_in_as_many_products_as_there_are_unknowns() -> None:
    matrix, rhs = spd(), torch.randn(8)
    found = solve(ConjugateGradient(max_steps=8, rtol=0.0), matrix, rhs)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, rhs), rtol=1e-10, atol=0)


def test_cg_falls_at_least_as_fast_as_its_bound() -> None:
    matrix, rhs = spd(40), torch.randn(40)
    truth = torch.linalg.solve(matrix, rhs)

    def error(steps: int) -> Tensor:
        gap = solve(ConjugateGradient(steps, rtol=0.0), matrix, rhs) - truth
        return (gap @ matrix @ gap).sqrt()

    contraction = (5**0.5 - 1) / (5**0.5 + 1)  # condition number 5
    start = (truth @ matrix @ truth).sqrt()
    for steps in (2, 5, 10):
        assert error(steps) <= 2 * contraction**steps * start


def test_cg_from_the_solution_stays_there() -> None:
    matrix, rhs = spd(), torch.randn(8)
    truth = torch.linalg.solve(matrix, rhs)
    for rtol in (0.0, 1e-6):
        found = solve(ConjugateGradient(5, rtol), matrix, rhs, guess=truth)
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


def test_cg_of_zero_is_zero() -> None:
    found = solve(ConjugateGradient(5, 0.0), spd(), torch.zeros(8))
    assert torch.equal(found, torch.zeros(8))


def test_cg_keeps_what_it_has_at_negative_curvature() -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0, -3.0]))
    rhs = torch.tensor([1.0, 1.0, 0.1])
    found = [solve(ConjugateGradient(steps, 0.0), matrix, rhs) for steps in range(1, 6)]
    assert all(value.isfinite().all() for value in found)
    assert torch.equal(found[-1], found[-2])  # frozen
    assert found[-1].norm() > 0
    assert torch.equal(solve(ConjugateGradient(5, 0.0), -spd(), torch.ones(8)), torch.zeros(8))


def test_cg_lets_nan_through() -> None:
    # Defect elsewhere: NaN is replaced by zero in silence.
    found = solve(ConjugateGradient(5, 1e-6), spd() * float("nan"), torch.ones(8))
    assert found.isnan().any()


@pytest.mark.parametrize("terms", [1, 2, 7])
def test_neumann_is_its_spectral_filter(terms: int) -> None:
    matrix, rhs = spd(), torch.randn(8)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    response = (1 - (1 - 0.2 * eigenvalues) ** terms) / eigenvalues
    expected = vectors @ (response * (vectors.T @ rhs))
    found = solve(Neumann(terms, step_size=0.2), matrix, rhs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_neumann_error_falls_with_the_contraction_rate() -> None:
    matrix, rhs = spd(), torch.randn(8)
    truth = torch.linalg.solve(matrix, rhs)
    errors = [(solve(Neumann(k, 0.2), matrix, rhs) - truth).norm() for k in (10, 20, 30)]
    # The largest |1 - 0.2 * eigenvalue| is 0.8.
    assert errors[1] <= 0.8**10 * errors[0] * (1 + 1e-9)
    assert errors[2] <= 0.8**10 * errors[1] * (1 + 1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_exact_is_the_damped_inverse(damping: float) -> None:
    matrix, rhs = spd(), torch.randn(8)
    expected = torch.linalg.solve(matrix + damping * torch.eye(8), rhs)
    for rtol in (None, 1e-12):
        found = solve(Exact(damping, rtol), matrix, rhs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_exact_with_rtol_is_the_pseudo_inverse_of_a_singular_matrix() -> None:
    factor = torch.randn(8, 5)
    matrix, rhs = factor @ factor.T, torch.randn(8)
    found = solve(Exact(0.0, 1e-10), matrix, rhs)
    torch.testing.assert_close(found, torch.linalg.pinv(matrix, hermitian=True) @ rhs)
    assert torch.equal(solve(Exact(0.0, 1e-10), 0 * matrix, rhs), torch.zeros(8))


def test_exact_without_rtol_refuses_a_singular_matrix() -> None:
    with pytest.raises(CannotServe, match="got a singular one"):
        solve(Exact(0.0, None), torch.zeros(3, 3), torch.ones(3))


def test_exact_lets_an_error_that_is_no_singular_matrix_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*given: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(dense, "solve", full)
    with pytest.raises(torch.OutOfMemoryError):
        solve(Exact(0.0, None), torch.eye(3), torch.ones(3))


@pytest.mark.gpu
def test_on_a_gpu_exact_solves_without_a_wait_and_says_of_a_singular_matrix_what_to_use() -> None:
    matrix, rhs = spd(), torch.randn(8)
    solver, far = Exact(0.1, None), (matrix.cuda(), rhs.cuda())
    solve(solver, *far)  # libraries wait once, when they are loaded
    singular = torch.zeros(8, 8, device="cuda")
    with nobody_waits():
        found, none = solve(solver, *far), solve(Exact(0.0, None), singular, far[1])
    torch.testing.assert_close(found.cpu(), solve(solver, matrix, rhs), rtol=1e-10, atol=1e-12)
    assert none.isnan().all()
    # The residual of such a solution, which a row of the run reports.
    (said,) = solver.doubts({"adjoint_residual": float("nan")}).values()
    assert "The inner Hessian is singular or nearly so. Use method=pseudo_inverse" in said


def test_identity_returns_the_right_hand_side() -> None:
    rhs = torch.randn(8)
    assert torch.equal(solve(Identity(), spd(), rhs), rhs)


def indefinite(size: int = 8) -> Tensor:
    vectors = torch.linalg.qr(torch.randn(size, size))[0]
    return vectors * torch.linspace(-3.3, 5.0, size) @ vectors.T


def test_minres_is_exact_on_an_indefinite_matrix_where_cg_freezes() -> None:
    matrix, rhs = indefinite(), torch.randn(8)
    truth = torch.linalg.solve(matrix, rhs)
    for steps in (8, 9, 30):
        found = solve(MinimumResidual(steps, 0.0), matrix, rhs)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
    assert (solve(ConjugateGradient(30, 0.0), matrix, rhs) - truth).norm() > 0.1 * truth.norm()


@pytest.mark.parametrize("make", [spd, indefinite])
def test_minres_has_the_smallest_residual_of_its_krylov_space(make: Callable[[], Tensor]) -> None:
    matrix, rhs, guess = make(), torch.randn(8), torch.randn(8)
    start, residuals = rhs - matrix @ guess, []
    for steps in range(1, 8):
        powers = [start]
        for _ in range(steps - 1):
            powers.append(matrix @ powers[-1])
        space = torch.linalg.qr(torch.stack(powers, dim=1))[0]
        best = guess + space @ torch.linalg.lstsq(matrix @ space, start[:, None]).solution[:, 0]
        found = solve(MinimumResidual(steps, 0.0), matrix, rhs, guess)
        torch.testing.assert_close(found, best, rtol=1e-8, atol=1e-10)
        residuals.append((rhs - matrix @ found).norm())
    # But for rounding: where curvatures have both signs, every other step may change nothing.
    assert all(after <= (1 + 1e-9) * before for before, after in pairwise(residuals))


def test_minres_keeps_what_it_has() -> None:
    matrix, rhs = indefinite(), torch.randn(8)
    truth = torch.linalg.solve(matrix, rhs)
    for rtol in (0.0, 1e-6):  # from the solution, and of zero
        found = solve(MinimumResidual(5, rtol), matrix, rhs, guess=truth)
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
        assert torch.equal(solve(MinimumResidual(5, rtol), matrix, torch.zeros(8)), torch.zeros(8))
    # Solved in one step: an isotropic matrix. In two: an eigenvalue of either sign.
    for matrix, steps in ((2 * torch.eye(8), 1), (torch.diag(torch.tensor(4 * [2.0, -1.0])), 2)):
        for more in (0, 1, 20):
            found = solve(MinimumResidual(steps + more, 0.0), matrix, rhs)
            torch.testing.assert_close(found, torch.linalg.solve(matrix, rhs), rtol=1e-12, atol=0)
    # Frozen at the tolerance, however many steps are left.
    matrix = spd()
    loose = [solve(MinimumResidual(steps, 0.3), matrix, rhs) for steps in (7, 20)]
    assert torch.equal(loose[0], loose[1])
    assert 1e-3 < (rhs - matrix @ loose[0]).norm() / rhs.norm() <= 0.3


def test_minres_of_a_singular_matrix_is_a_least_squares_solution() -> None:
    factor = torch.randn(8, 5)
    signs = torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]))
    matrix, rhs = factor @ signs @ factor.T, torch.randn(8)
    inside = matrix @ rhs  # in the range, where the solution of smallest norm is the pseudo-inverse
    found = solve(MinimumResidual(30, 0.0), matrix, inside)
    expected = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ inside
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    found = solve(MinimumResidual(30, 0.0), matrix, rhs)
    assert (matrix @ (matrix @ found - rhs)).norm() < 1e-6 * (matrix @ rhs).norm()


def test_minres_lets_nan_through() -> None:
    found = solve(MinimumResidual(5, 1e-6), spd() * float("nan"), torch.ones(8))
    assert found.isnan().any()


def test_minres_agrees_with_cg_in_float32() -> None:
    matrix, rhs = spd().float(), torch.randn(8).float()
    found = solve(MinimumResidual(20, 0.0), matrix, rhs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.linalg.solve(matrix, rhs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_least_squares_is_its_spectral_filter(steps: int) -> None:
    matrix, rhs = indefinite(), torch.randn(8)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    response = (1 - (1 - (0.2 * eigenvalues) ** 2) ** steps) / eigenvalues
    expected = vectors @ (response * (vectors.T @ rhs))
    found = solve(LeastSquares(steps, step_size=0.2), matrix, rhs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_least_squares_tends_to_the_pseudo_inverse_of_a_singular_indefinite_matrix() -> None:
    vectors = torch.linalg.qr(torch.randn(8, 8))[0]
    eigenvalues = torch.tensor([-2.0, -1.0, 0.0, 0.0, 1.0, 1.5, 2.0, 2.5])
    matrix, rhs = vectors * eigenvalues @ vectors.T, torch.randn(8)
    expected = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ rhs
    # Contracts by 1 - 0.5^2 * 1^2 = 0.75 a step: 100 steps leave 3e-13.
    found = solve(LeastSquares(100, step_size=0.5), matrix, rhs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def drawn(rank: int, damping: float, seed: int) -> LinearSolver:
    solver = Nystrom(rank, damping)
    return solver.given(solver.draw(torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("rank", [8, 50])
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_nystrom_of_full_rank_is_the_damped_inverse(rank: int, damping: float) -> None:
    matrix, rhs = spd(), torch.randn(8)
    expected = torch.linalg.solve(matrix + damping * torch.eye(8), rhs)
    found = solve(drawn(rank, damping, 0), matrix, rhs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_nystrom_is_exact_once_its_columns_span_the_range(rank: int, seed: int) -> None:
    # Of rank 3: with more columns M is singular, which its inverse would not survive.
    factor = torch.randn(8, 3)
    matrix, rhs = factor @ factor.T, torch.randn(8)
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(8), rhs)
    found = solve(drawn(rank, 0.1, seed), matrix, rhs)
    # Three columns of a random factor can be nearly dependent: digits go with their condition.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_nystrom_is_woodburys_identity_on_its_columns() -> None:
    matrix, rhs, damping = spd(), torch.randn(8), 0.3
    columns, inside = matrix[:, :3], matrix[:3, :3]  # without random numbers, the first ones
    low_rank = columns @ torch.linalg.inv(inside) @ columns.T
    expected = torch.linalg.solve(low_rank + damping * torch.eye(8), rhs)
    found = solve(Nystrom(3, damping), matrix, rhs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_nystrom_chooses_all_subsets_of_columns_equally_often() -> None:
    # On the identity, v = rhs / (1 + damping) on chosen entries and rhs / damping elsewhere.
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(2000):
        found = solve(drawn(2, 1.0, seed), torch.eye(4), torch.ones(4))
        chosen = tuple(torch.nonzero(found < 0.75).flatten().tolist())
        assert len(chosen) == 2
        counts[chosen] += 1
    # Six pairs, each with mean 333 and standard deviation 17: five of them either way.
    assert len(counts) == 6
    assert all(abs(count - 2000 / 6) < 5 * 17 for count in counts.values())


SOLVERS = [
    ConjugateGradient(5, 1e-3),
    Neumann(5, 0.2),
    Exact(0.1, None),
    Exact(0.0, 1e-9),
    Identity(),
    LeastSquares(3, 0.2),
    MinimumResidual(5, 1e-3),
    Nystrom(3, 0.1),
    Nystrom(30, 0.1),
    drawn(3, 0.1, 0),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_number_of_products_is_the_one_declared(solver: LinearSolver) -> None:
    matrix, count = spd(), 0

    def matvec(v: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return matrix @ v

    solver.solve(matvec, torch.randn(8), torch.zeros(8))
    assert count == solver.products(8)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("make", [spd, indefinite])
def test_the_dense_inverse_is_what_a_solve_from_zero_applies(
    solver: LinearSolver, make: Callable[[], Tensor]
) -> None:
    matrix, rhs = make(), torch.randn(8)
    expected = solver.inverse(matrix, rhs, rounds=1) @ rhs
    torch.testing.assert_close(solve(solver, matrix, rhs), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("solver", [Neumann(5, 0.2), LeastSquares(3, 0.2)], ids=str)
def test_the_dense_inverse_of_several_rounds_begins_each_where_the_last_one_ended(
    solver: LinearSolver,
) -> None:
    matrix, rhs = spd(), torch.randn(8)
    found = torch.zeros(8)
    for _ in range(3):
        found = solve(solver, matrix, rhs, found)
    expected = solver.inverse(matrix, rhs, rounds=3) @ rhs
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_there_is_no_dense_inverse_to_compare_with_near_a_singular_matrix() -> None:
    with pytest.raises(NoSolution, match="too close to singular"):
        Exact(0.0, None).inverse(torch.diag(torch.tensor([1.0, 1e-6])), torch.ones(2), 1)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_mapped_solves_equal_single_ones(solver: LinearSolver) -> None:
    matrices, rhs = torch.stack([spd() for _ in range(3)]), torch.randn(3, 8)

    def one(matrix: Tensor, rhs: Tensor) -> Tensor:
        return solve(solver, matrix, rhs)

    single = torch.stack([one(m, r) for m, r in zip(matrices, rhs, strict=True)])
    torch.testing.assert_close(autodiff.vmap(one)(matrices, rhs), single)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConjugateGradient(0, 0.0), "ConjugateGradient needs max_steps >= 1 products"),
        (lambda: ConjugateGradient(5, -1.0), "needs rtol >= 0, got rtol=-1.0"),
        (lambda: Neumann(5, 0.0), "Neumann needs a finite step_size > 0"),
        (lambda: LeastSquares(0, 0.1), "LeastSquares needs max_steps >= 1 products"),
        (lambda: LeastSquares(5, 0.0), "LeastSquares needs a finite step_size > 0"),
        (lambda: MinimumResidual(0, 0.0), "MinimumResidual needs max_steps >= 1 products"),
        (lambda: MinimumResidual(5, -1.0), "MinimumResidual needs rtol >= 0"),
        (lambda: Nystrom(0, 0.1), "Nystrom needs rank >= 1 columns"),
        (lambda: Nystrom(5, 0.0), "Nystrom needs a finite damping > 0"),
        (lambda: Exact(-1.0, None), "Exact needs a finite damping >= 0"),
        (lambda: Exact(0.0, 1.0), r"Exact needs rtol in \[0, 1\)"),
    ],
)
def test_an_unusable_setting_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

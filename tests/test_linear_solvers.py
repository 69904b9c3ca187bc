"""Linear solvers, against torch.linalg."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel_cli import autodiff
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.neumann import Neumann


def spd(size: int = 8) -> Tensor:
    vectors = torch.linalg.qr(torch.randn(size, size))[0]
    return vectors * torch.linspace(1.0, 5.0, size) @ vectors.T


def solve(solver: LinearSolver, matrix: Tensor, rhs: Tensor, guess: Tensor | None = None) -> Tensor:
    return solver.solve(
        lambda v: matrix @ v, rhs, torch.zeros_like(rhs) if guess is None else guess
    )


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
    with pytest.raises(RuntimeError, match="got a singular one"):
        solve(Exact(0.0, None), torch.zeros(3, 3), torch.ones(3))


def test_identity_returns_the_right_hand_side() -> None:
    rhs = torch.randn(8)
    assert torch.equal(solve(Identity(), spd(), rhs), rhs)


SOLVERS = [
    ConjugateGradient(5, 1e-3),
    Neumann(5, 0.2),
    Exact(0.1, None),
    Exact(0.0, 1e-9),
    Identity(),
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
        (lambda: Exact(-1.0, None), "Exact needs a finite damping >= 0"),
        (lambda: Exact(0.0, 1.0), r"Exact needs rtol in \[0, 1\)"),
    ],
)
def test_an_unusable_setting_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

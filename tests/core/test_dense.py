"""Small factorisations keep their accuracy and stay finite in a run of float32."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from waits import nobody_waits

from bilevel_cli.core import autodiff, dense
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.nystrom import Nystrom

EPS = torch.finfo(torch.float32).eps


def solve(solver: LinearSolver, matrix: Tensor, rhs: Tensor) -> Tensor:
    return solver.solve(lambda v: matrix @ v, rhs, torch.zeros_like(rhs)).solution


def graded(seed: int, size: int = 20) -> Tensor:
    """A finite symmetric matrix in float32 whose rows span up to 37 decades; rank-deficient."""
    generator = torch.Generator().manual_seed(seed)
    span, top = 37 * torch.rand(2, generator=generator)
    order = torch.randperm(size, generator=generator)
    rows = torch.logspace(0, -float(span), size, dtype=torch.float32)[order]
    factor = torch.randn(size, size, generator=generator, dtype=torch.float32)
    gram = (factor @ factor.T) * rows[:, None] * rows * 10 ** float(top - 18)
    return (gram + gram.T) / 2


def hilbert(size: int) -> Tensor:
    """Positive definite, of condition 1.5e7 for size 6."""
    index = torch.arange(size, dtype=torch.float64)
    return (1 / (index[:, None] + index + 1)).float()


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


def test_eigenvectors_of_graded_matrices_are_finite_and_orthonormal() -> None:
    # Of these 400, torch.linalg.eigh in float32 returns NaN for, or refuses, a handful.
    for seed in range(400):
        matrix = graded(seed)
        assert matrix.isfinite().all()
        values, vectors = dense.eigh(matrix)
        wide = matrix.double()
        # Backward stability: a modest multiple of n * eps * |H|.
        bound = 10 * 20 * torch.finfo(torch.float64).eps
        assert (vectors.T @ vectors - torch.eye(20)).norm() < bound
        assert (vectors * values @ vectors.T - wide).norm() <= bound * wide.norm()


@pytest.mark.parametrize("solver", [Nystrom(20, 0.1), Nystrom(7, 1e-3), Exact(0.0, 1e-6)], ids=str)
def test_solves_with_graded_matrices_are_finite(solver: LinearSolver) -> None:
    for seed in range(400):
        assert solve(solver, graded(seed), torch.ones(20, dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize("damping", [0.0, 1e-6])
def test_exact_in_float32_solves_the_matrix_that_its_products_made(damping: float) -> None:
    matrix, rhs = hilbert(6), torch.randn(6).float()
    damped = matrix.double() + damping * torch.eye(6)
    truth = torch.linalg.solve(damped, rhs.double())
    # Products with unit vectors are columns without rounding. In float32 the factorisation, or the
    # damping added there, would lose every digit.
    condition = float(torch.linalg.cond(damped))
    bound = EPS + 10 * 6 * torch.finfo(torch.float64).eps * condition
    assert relative(solve(Exact(damping, None), matrix, rhs), truth) <= bound


@pytest.mark.parametrize("damping", [1e-4, 1e-2, 1.0])
def test_nystrom_of_full_rank_in_float32_is_the_damped_inverse(damping: float) -> None:
    matrix, rhs = hilbert(6), torch.randn(6).float()
    truth = torch.linalg.solve(matrix.double() + damping * torch.eye(6), rhs.double())
    found = solve(Nystrom(6, damping), matrix, rhs)
    # Eigenvalues below n * eps * |H| count as zero: each moves 1 / damping by that share of it.
    bound = (EPS + 6 * EPS * float(torch.linalg.matrix_norm(matrix, 2)) / damping) / damping
    assert float((found - truth).norm()) <= bound * float(rhs.norm())


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(2, 20),
    share=st.floats(0.1, 1.0),
    exponent=st.integers(-15, 15),
    damping=st.sampled_from([1e-2, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_low_rank_matrices_of_every_scale_are_solved_in_float32(
    size: int, share: float, exponent: int, damping: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rank, scale = max(1, int(share * size)), 10.0**exponent
    spectrum = 0.1 + 0.9 * torch.rand(rank, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(normal)[0][:, :rank]
    matrix = (scale * (vectors * spectrum @ vectors.T)).float()
    matrix = (matrix + matrix.T) / 2
    rhs = torch.randn(size, generator=generator, dtype=torch.float64).float()
    wide, norm = matrix.double(), float(rhs.double().norm())

    found = solve(Exact(0.0, 1e-4), matrix, rhs)
    truth = torch.linalg.pinv(wide, rtol=1e-4, hermitian=True) @ rhs.double()
    # Nonzero eigenvalues are at least 0.1 * scale: rounding of the result alone is left.
    assert float((found - truth).norm()) <= 10 * EPS * norm / (0.1 * scale)

    found = solve(Nystrom(size, damping * scale), matrix, rhs)
    identity = torch.eye(size, dtype=torch.float64)
    truth = torch.linalg.solve(wide + damping * scale * identity, rhs.double())
    # What rounding puts into the null space, size * EPS * |H|, and what is cut off there.
    bound = (EPS + 2 * size * EPS / damping) / (damping * scale)
    assert float((found - truth).norm()) <= bound * norm


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Has `dense` take the CPU for another device, once it is called."""
    with monkeypatch.context() as patched:
        yield lambda: patched.setattr(dense, "is_host", lambda device: False)


@pytest.mark.parametrize("columns", [(), (3,)], ids=["vector", "columns"])
def test_a_solution_on_another_device_has_the_derivatives_of_torch_s(
    columns: tuple[int, ...], elsewhere: Callable[[], None]
) -> None:
    matrix, rhs = torch.eye(5) + 0.2 * torch.randn(5, 5), torch.randn(5, *columns)
    along = torch.randn_like(matrix), torch.randn_like(rhs)

    def cube(matrix: Tensor, rhs: Tensor) -> Tensor:
        return (dense.solve(matrix, rhs) ** 3).sum()

    def slope(matrix: Tensor, rhs: Tensor) -> Tensor:
        grads = autodiff.grad(cube, (0, 1))(matrix, rhs)
        return torch.stack([(g * d).sum() for g, d in zip(grads, along, strict=True)]).sum()

    def forward(share: Tensor) -> Tensor:
        return dense.solve(matrix + share * along[0], rhs + share * along[1])

    def everything() -> tuple[Tensor, ...]:
        stacked = [torch.stack([x, 2 * x]) for x in (matrix, rhs)]
        return (
            dense.solve(matrix, rhs),
            *autodiff.grad(cube, (0, 1))(matrix, rhs),
            *autodiff.grad(slope, (0, 1))(matrix, rhs),
            *autodiff.vmap(autodiff.grad(slope, (0, 1)))(*stacked),
            autodiff.jacfwd(forward)(torch.tensor(0.5)),
        )

    expected = everything()
    elsewhere()
    # Two factorisations instead of one, of condition at most 100.
    torch.testing.assert_close(everything(), expected, rtol=1e-10, atol=1e-10)
    singular = torch.ones(5, 5), rhs
    assert dense.solve(*singular).isnan().all()


def test_forward_derivatives_of_mapped_solutions_are_those_of_single_ones() -> None:
    """torch.linalg.solve has wrong ones where two maps meet forward mode (torch 2.13)."""
    matrix, rhs, along = (
        torch.eye(5) + 0.2 * torch.randn(5, 5),
        torch.randn(5),
        torch.randn(3, 2, 5),
    )

    def slopes(along: Tensor) -> Tensor:
        def moved(shares: Tensor) -> Tensor:
            shift = shares @ along
            return dense.solve(matrix + torch.diag(shift), rhs + shift).sum()

        return autodiff.jacfwd(moved)(torch.zeros(2))

    # d (A^-1 b) = A^-1 (db - dA A^-1 b), by hand.
    solution = torch.linalg.solve(matrix, rhs)
    expected = torch.linalg.solve(matrix, (along * (1 - solution)).mT).sum(1)
    torch.testing.assert_close(autodiff.vmap(slopes)(along), expected, rtol=1e-10, atol=1e-10)


def test_a_singular_matrix_on_the_host_is_refused() -> None:
    with pytest.raises(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        dense.solve(torch.ones(5, 5), torch.ones(5))


@pytest.mark.gpu
def test_nobody_waits_for_a_solution_on_a_gpu_nor_for_its_derivatives() -> None:
    matrix, rhs = torch.eye(5) + 0.2 * torch.randn(5, 5), torch.randn(5)

    def slope(matrix: Tensor) -> Tensor:
        return (
            autodiff.grad(lambda a, b: (dense.solve(a, b) ** 3).sum())(matrix, rhs).square().sum()
        )

    expected = autodiff.grad(slope)(matrix)
    matrix, rhs = matrix.cuda(), rhs.cuda()
    autodiff.grad(slope)(matrix)  # libraries wait once, when they are loaded
    with nobody_waits():
        found = autodiff.grad(slope)(matrix)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_mapped_factorisations_equal_single_ones() -> None:
    matrices = torch.stack([hilbert(6) + shift * torch.eye(6).float() for shift in (0.1, 1.0, 9.0)])
    rhs = torch.randn(6).float()
    for solver in (Nystrom(4, 0.1), Exact(0.0, 1e-6), Exact(1.0, None)):

        def one(matrix: Tensor, solver: LinearSolver = solver) -> Tensor:
            return solve(solver, matrix, rhs)

        single = torch.stack([one(matrix) for matrix in matrices])
        mapped = autodiff.vmap(one)(matrices)
        assert mapped.dtype == torch.float32
        # Products differ in their rounding: n * EPS, magnified by conditions of at most 20.
        assert (mapped - single).norm() <= 20 * 6 * EPS * single.norm()

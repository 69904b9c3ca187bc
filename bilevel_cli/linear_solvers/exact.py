"""The whole Hessian, for small inner problems and ground truth."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, counting, dense
from bilevel_cli.core.growth import Part, Parts
from bilevel_cli.core.method import CannotServe
from bilevel_cli.core.residuals import WORSE_THAN_NONE
from bilevel_cli.linear_solvers.base import LinearSolver, Matvec, Nonsymmetric, Solved, inverted


@dataclass(frozen=True)
class Exact(LinearSolver):
    """(H + damping * I)^-1, or its pseudo-inverse, from n products with H.

    With damping it gives the response of the proximal problem f + damping / 2 * |z - z_ref|^2 at
    z = z_ref; with the pseudo-inverse, the minimum-norm response of a singular H. Memory is n^2
    numbers.

    Args:
        damping: Added to every eigenvalue, >= 0.
        rtol: Eigenvalues of H + damping * I below rtol times the largest, in magnitude, count as
            zero and are left out (pseudo-inverse). None to solve with all of them; then `solve`
            raises CannotServe for a singular matrix on the host, and returns NaN elsewhere,
            where it would have to wait to know.
    """

    damping: float
    rtol: float | None

    symmetric = False
    residual_limit = WORSE_THAN_NONE  # damping and a pseudo-inverse leave a residual by design
    advice = (
        "The inner Hessian is singular or nearly so. Use method=pseudo_inverse, or another "
        "method.linear_solver.damping, such as 0.01."
    )

    def __post_init__(self) -> None:
        if not 0 <= self.damping < math.inf:
            raise ValueError(f"Exact needs a finite damping >= 0, got damping={self.damping}.")
        if self.rtol is not None and not 0 <= self.rtol < 1:
            raise ValueError(
                f"Exact needs rtol in [0, 1), got rtol={self.rtol}. Use null for a plain solve."
            )

    def products(self, size: int) -> int:
        return size

    def holds(self, size: int) -> Parts:
        # In float64: the Hessian and its factors; the eigenvectors have room to be made, too.
        copies, less = (4, "cg") if self.rtol is None else (8, "minres")
        what = f"the inner Hessian of {size} x {size} numbers and its factors"
        return (Part(what, copies * size**2, (f"method/linear_solver={less}",)),)

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        damped = hessian + self.damping * torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device)
        if self.rtol is None:
            return inverted(damped)
        return dense.pinv(damped, rtol=self.rtol, hermitian=False)

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        del guess
        # float64 from here on: in float32 a small damping is lost beside a large Hessian.
        columns = torch.stack(_columns(matvec, rhs)).double()
        symmetric = not isinstance(matvec, Nonsymmetric)
        hessian = (columns + columns.T).div_(2) if symmetric else columns.T
        del columns
        hessian.diagonal().add_(self.damping)
        if self.rtol is None:
            try:
                return Solved(dense.solve(hessian, rhs), {})
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                kind = "Hessian" if symmetric else "Jacobian"
                raise CannotServe(
                    f"Exact needs a {kind} that can be inverted, got a singular one. Use "
                    "method=pseudo_inverse, or method.linear_solver.damping=0.01."
                ) from error
        solution = _pseudo_solved(hessian if symmetric else _doubled(hessian), rhs, self.rtol)
        return Solved(solution[-len(rhs) :].to(rhs.dtype), {})


def _pseudo_solved(matrix: Tensor, rhs: Tensor, rtol: float) -> Tensor:
    """The solution of smallest norm, in float64, of a symmetric matrix [m, m]: [m].

    Args:
        matrix: In float64.
        rhs: Of shape [n], n <= m; the entries behind it are zero.
        rtol: As in `Exact`.
    """
    eigenvalues, vectors = dense.eigh(matrix)
    kept = eigenvalues.abs() > rtol * eigenvalues.abs().amax()
    inverse = torch.where(kept, 1 / torch.where(kept, eigenvalues, 1.0), 0.0)
    wide = torch.cat([rhs.double(), matrix.new_zeros(len(matrix) - len(rhs))])
    return vectors @ (inverse * (vectors.T @ wide))


def _doubled(matrix: Tensor) -> Tensor:
    """[[0, M], [M', 0]]: symmetric, with the singular values of M, of both signs, as eigenvalues.

    Its pseudo-inverse takes (b, 0) to (0, v), where v is the pseudo-solution of M v = b.
    """
    zero = torch.zeros_like(matrix)
    return torch.cat([torch.cat([zero, matrix], 1), torch.cat([matrix.T, zero], 1)])


def _columns(matvec: Matvec, rhs: Tensor) -> list[Tensor]:
    """The columns of H, one product each: of a large H whoever listens is told how many are done.

    Args:
        matvec: Computes H v, from [n] to [n].
        rhs: For its shape [n], device and precision.
    """
    size, found = len(rhs), []
    numbers = range(size)
    for number in numbers if autodiff.mapped() else counting.counted(numbers, size):
        one = torch.zeros(size, dtype=rhs.dtype, device=rhs.device)
        one.narrow(0, number, 1).fill_(1.0)  # to assign a number to one entry waits for a GPU
        found.append(matvec(one))
    return found

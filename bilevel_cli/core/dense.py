"""Factorisations of small dense matrices, in float64 whatever the type of the run.

In float32 torch.linalg.eigh returns NaN, or raises, for some finite matrices of 20 rows whose
entries span many magnitudes, and the square of a matrix loses every digit at condition 3e3. A
factorisation of a few hundred rows costs little beside the products that made the matrix.
"""

import torch
from torch import Tensor


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n], ascending, and eigenvectors [n, n] of a symmetric matrix, both in float64.

    They stay so, for what is made of them: cast the end of the computation.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    return values, vectors


def solve(matrix: Tensor, rhs: Tensor) -> Tensor:
    """The solution of `matrix` x = `rhs`, in the type of `rhs`.

    Raises:
        RuntimeError: The matrix is singular.
    """
    return torch.linalg.solve(matrix.double(), rhs.double()).to(rhs.dtype)


def inv(matrix: Tensor) -> Tensor:
    """The inverse, in the type of the matrix.

    Raises:
        RuntimeError: The matrix is singular.
    """
    return torch.linalg.inv(matrix.double()).to(matrix.dtype)


def pinv(matrix: Tensor, rtol: float | None, hermitian: bool) -> Tensor:
    """The pseudo-inverse, in the type of the matrix.

    Args:
        matrix: Of shape [m, n].
        rtol: Singular values below rtol times the largest count as zero. None for the default of
            torch at the precision in which the matrix was made.
        hermitian: Whether the matrix is symmetric.
    """
    if rtol is None:
        rtol = max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return torch.linalg.pinv(matrix.double(), rtol=rtol, hermitian=hermitian).to(matrix.dtype)

"""Factorisations of small dense matrices, in float64 whatever the type of the run.

In float32 torch.linalg.eigh returns NaN, or raises, for some finite matrices of 20 rows whose
entries span many magnitudes, and the square of a matrix loses every digit at condition 3e3. A
factorisation of a few hundred rows costs little beside the products that made the matrix.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.host import is_host


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n], ascending, and eigenvectors [n, n] of a symmetric matrix, both in float64.

    They stay so, for what is made of them: cast the end of the computation.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    return values, vectors


def solve(matrix: Tensor, rhs: Tensor) -> Tensor:
    """The solution of `matrix` x = `rhs`, in the type of `rhs`.

    On another device than the host nobody waits to learn whether the matrix is singular, and of a
    mapped one nobody could: there the solution is NaN if it is.

    Args:
        matrix: Of shape [n, n].
        rhs: Of shape [n] or [n, columns].

    Raises:
        LinAlgError: The matrix is on the host, not mapped, and singular.
    """
    wide, right = matrix.double(), rhs.double()
    # Mapped twice, torch's own forward derivative is wrong without a word (2.13).
    if is_host(matrix.device) and (torch.compiler.is_compiling() or not autodiff.mapped()):
        return torch.linalg.solve(wide, right).to(rhs.dtype)
    columns = right if right.dim() == 2 else right[:, None]
    found: Tensor = _Solution.apply(wide, columns)  # type: ignore[no-untyped-call]
    return found.reshape(right.shape).to(rhs.dtype)


def inv(matrix: Tensor) -> Tensor:
    """The inverse, in the type of the matrix. Waits for the device.

    Raises:
        LinAlgError: The matrix is singular.
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


def power_sum(matrix: Tensor, terms: int) -> Tensor:
    """I + A + ... + A^(terms - 1) of a matrix A [n, n], in about 2 log2(terms) products."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    total, power = torch.zeros_like(matrix), eye  # of the first k terms, and A^k
    for bit in f"{terms:b}":
        total, power = total + power @ total, power @ power
        if bit == "1":
            total, power = eye + matrix @ total, matrix @ power
    return total


class _Solution(torch.autograd.Function):
    """A^-1 B, or NaN where A is singular, of A [n, n] and B [n, k]; and its derivatives.

    Those of torch.linalg.solve_ex but the first ask the host whether A is singular.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, rhs: Tensor) -> Tensor:
        found, info = torch.linalg.solve_ex(matrix, rhs)
        return found.masked_fill(info != 0, math.nan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        matrix, found = ctx.saved_tensors
        slope: Tensor = _Solution.apply(matrix.mT, grads[0])  # type: ignore[no-untyped-call]
        return -slope @ found.mT, slope

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        matrix, found = ctx.saved_tensors
        of_matrix, of_rhs = tangents
        moved: Tensor = _Solution.apply(matrix, of_rhs - of_matrix @ found)  # type: ignore[no-untyped-call]
        return moved

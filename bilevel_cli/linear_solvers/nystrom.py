"""The Nystrom approximation of the Hessian."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import dense, draws
from bilevel_cli.core.growth import Part, Parts
from bilevel_cli.core.residuals import WORSE_THAN_NONE
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver, Matvec, Solved


@dataclass(frozen=True)
class Nystrom(LinearSolver):
    """(C M^+ C' + damping * I)^-1, from randomly chosen columns C of H, where M = C[chosen].

    Hataya & Yamada (2023, arXiv:2302.09726). By Woodbury's identity, without an iteration,

        v = (rhs - C (damping * M + C'C)^+ C' rhs) / damping.

    It is meant for positive semi-definite H, and exact for (H + damping * I)^-1 once the columns
    span the range of H. On what they leave out, H counts as zero and its inverse as 1 / damping.
    The columns are chosen anew at every estimate, all subsets with equal probability.

    Args:
        rank: Number of columns, and of products with H. At most all of them are taken.
        damping: Added to every eigenvalue, > 0.
    """

    rank: int
    damping: float

    residual_limit = WORSE_THAN_NONE  # damping and few columns leave a residual by design
    advice = (
        "Raise method.linear_solver.rank or method.linear_solver.damping, or use method=minres, "
        "which serves an indefinite Hessian too."
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(
                f"Nystrom needs rank >= 1 columns, got rank={self.rank}. "
                "Use method/linear_solver=identity for none."
            )
        if not 0 < self.damping < math.inf:
            raise ValueError(
                f"Nystrom needs a finite damping > 0, got damping={self.damping}. Try 0.1, or "
                "method=pseudo_inverse for none."
            )

    def products(self, size: int) -> int:
        return min(self.rank, size)

    def holds(self, size: int) -> Parts:
        count = self.products(size)
        what = f"{count} columns of the inner Hessian, of {size} numbers each"
        return (Part(what, 4 * count * size, ("method.linear_solver.rank",)),)

    def draw(self, generator: torch.Generator) -> Params:
        return {"columns": draws.uniform(self.rank, generator=generator, drawn_in=torch.float64)}

    def given(self, noise: Params) -> LinearSolver:
        return _OnColumns(self.rank, self.damping, noise["columns"]) if noise else self

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        """Takes the first columns, unless `given` has filled in random numbers."""
        del guess
        chosen = self._chosen(rhs)
        order = torch.arange(len(rhs), device=rhs.device)
        rows = (order == chosen[:, None]).to(rhs.dtype)  # of the identity, which has n x n numbers
        # float64 from here on: the Gram matrix squares the condition of the columns.
        columns = torch.stack([matvec(row) for row in rows], dim=1).double()
        inside, wide = columns.index_select(0, chosen), rhs.double()
        gram = self.damping * (inside + inside.T) / 2 + columns.T @ columns
        eigenvalues, vectors = dense.eigh(gram)
        kept = eigenvalues.abs() > self._rounding(eigenvalues.abs().amax(), len(chosen), rhs.dtype)
        weights = torch.where(kept, 1 / torch.where(kept, eigenvalues, 1.0), 0.0)
        inner = vectors @ (weights * (vectors.T @ (columns.T @ wide)))
        return Solved(((wide - columns @ inner) / self.damping).to(rhs.dtype), {})

    def _rounding(self, largest: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        """The eigenvalues that rounding leaves in the null space of the Gram matrix.

        The Gram matrix has a null space where columns depend on each other. An eigenvalue h of H
        gives it an eigenvalue damping * h + h^2, and rounding makes count * eps * |H| of h = 0.
        """
        wide = count * torch.finfo(torch.float64).eps * largest
        hessian = 2 * largest / (self.damping + torch.sqrt(self.damping**2 + 4 * largest))
        noise = count * torch.finfo(dtype).eps * hessian
        return torch.maximum(wide, (self.damping + noise) * noise)

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        chosen = self._chosen(rhs)
        columns = hessian[:, chosen]
        low_rank = columns @ dense.pinv(columns[chosen], rtol=None, hermitian=True) @ columns.T
        eye = torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device)
        return dense.inv(low_rank + self.damping * eye)

    def _chosen(self, rhs: Tensor) -> Tensor:
        return torch.arange(self.products(len(rhs)), device=rhs.device)


@dataclass(frozen=True)
class _OnColumns(Nystrom):
    uniform: Tensor

    def _chosen(self, rhs: Tensor) -> Tensor:
        # The first swaps of a Fisher-Yates shuffle: numbers drawn before n is known are enough.
        size = len(rhs)
        count = self.products(size)
        order = torch.arange(size, device=rhs.device)
        for place in range(count):
            left = size - place
            other = place + (self.uniform[place] * left).long().clamp(max=left - 1)
            pair = torch.stack([torch.full_like(other, place), other])
            order = order.index_copy(0, pair, order.index_select(0, pair.flip(0)))
        return order[:count]

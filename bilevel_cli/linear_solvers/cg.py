"""Conjugate gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.linear_solvers.base import (
    LinearSolver,
    Matvec,
    check_rtol,
    check_steps,
    krylov_bases,
)


@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradient (Hestenes & Stiefel, 1952), for positive definite H.

    Exact after n products in exact arithmetic. The iterate is frozen, and kept, once the residual
    is small, and at the first direction of non-positive curvature, which an inner problem that is
    not yet solved can show.

    Args:
        max_steps: Number of products with H, besides the one for the first residual.
        rtol: Relative residual at which the iterate is frozen.
    """

    max_steps: int
    rtol: float

    def __post_init__(self) -> None:
        check_steps("ConjugateGradient", self.max_steps)
        check_rtol("ConjugateGradient", self.rtol)

    def products(self, size: int) -> int:
        return self.max_steps + 1

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        # Iterate k is the solution on the Krylov space of dimension k: V (V'HV)^-1 V' rhs.
        if rounds > 1:  # no single Krylov space, but the same limit
            return torch.linalg.inv(hessian)
        found = torch.zeros_like(hessian)
        for basis in krylov_bases(hessian, rhs, self.max_steps):
            projected = basis.T @ hessian @ basis
            converged = (rhs - hessian @ (found @ rhs)).norm() <= self.rtol * rhs.norm()
            if converged or torch.linalg.eigvalsh(projected)[0] <= 0:
                break
            found = basis @ torch.linalg.solve(projected, basis.T)
        return found

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Tensor:
        solution = guess
        residual = rhs - matvec(guess)
        direction = residual
        norm2 = residual @ residual
        target = self.rtol**2 * (rhs @ rhs)
        active = norm2 > target
        for _ in range(self.max_steps):
            product = matvec(direction)
            curvature = direction @ product
            # Never again active once frozen; and where not active, divided by one instead of zero.
            # `not <= 0` rather than `> 0`: a NaN must reach the result, where it is reported.
            active = active & ~(curvature <= 0)
            step = torch.where(active, norm2 / torch.where(active, curvature, 1.0), 0.0)
            solution = solution + step * direction
            residual = residual - step * product
            before, norm2 = norm2, residual @ residual
            ratio = norm2 / torch.where(active, before, 1.0)
            direction = torch.where(active, residual + ratio * direction, direction)
            active = active & ~(norm2 <= target)
        return solution

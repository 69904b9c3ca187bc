"""The minimum residual method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import dense
from bilevel_cli.linear_solvers.base import KrylovSolver, Matvec, Solved


@dataclass(frozen=True)
class MinimumResidual(KrylovSolver):
    """MINRES (Paige & Saunders, 1975), for symmetric H that may be indefinite.

    Iterate k has the smallest residual |H v - rhs| on the Krylov space of dimension k, by Lanczos'
    three-term recurrence and one Givens rotation a step. Exact after n products in exact
    arithmetic; for a singular H it finds a least-squares solution. The iterate is frozen, and kept,
    once the residual or H times the residual is small, and when the Krylov space no longer grows.

    Args:
        max_steps: Number of products with H, besides the one for the first residual.
        rtol: Relative residual at which the iterate is frozen.
    """

    advice = (
        "Raise method.linear_solver.max_steps, or use method=pseudo_inverse where the inner "
        "parameters are few."
    )

    def iterate(self, basis: Tensor, hessian: Tensor) -> Tensor:
        return basis @ dense.pinv(hessian @ basis, rtol=None, hermitian=False)

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        eps = torch.finfo(rhs.dtype).eps
        # What counts as zero beside |H|. On 300 random singular systems, eps^0.6 let 5 iterates run
        # away in float64 and 28 in float32; eps^0.5 let none.
        none = eps**0.5
        target = max(self.rtol, eps) * rhs.norm()
        residual = rhs - matvec(guess)
        remaining = residual.norm()  # signed norm of the residual, once there are rotations
        active = ~(remaining <= target)
        vector, before = residual / torch.where(active, remaining, 1.0), torch.zeros_like(rhs)
        solution, step, last_step = guess, torch.zeros_like(rhs), torch.zeros_like(rhs)
        zero, one = torch.zeros_like(remaining), torch.ones_like(remaining)
        # Of the tridiagonal matrix: its last entry beside the diagonal, and its size so far.
        beside, size = zero, zero
        # The cosines and sines of the last two rotations.
        (cos, sin), (last_cos, last_sin) = (one, zero), (one, zero)
        for _ in range(self.max_steps):
            product = matvec(vector) - beside * before
            diagonal = vector @ product
            product = product - diagonal * vector
            below = product.norm()
            size = torch.maximum(size, torch.hypot(diagonal, below))
            # The new column, rotated by what made the ones before triangular; then its own.
            far, near = last_sin * beside, last_cos * beside
            near, pivot = cos * near + sin * diagonal, cos * diagonal - sin * near
            length = torch.hypot(pivot, below)
            # |H residual| / |residual|: zero at a least-squares solution, beyond which lies noise.
            slope = torch.hypot(pivot, cos * below)
            active = active & ~(slope <= none * size)
            length = torch.where(active, length, 1.0)
            (cos, sin), (last_cos, last_sin) = (pivot / length, below / length), (cos, sin)
            step, last_step = (vector - far * last_step - near * step) / length, step
            # Not a product with zero: once frozen, what is left out may overflow.
            solution = solution + torch.where(active, cos * remaining * step, 0.0)
            remaining = -sin * remaining
            grows = ~(below <= none * size)
            active = active & grows & ~(remaining.abs() <= target)
            vector, before = product / torch.where(grows, below, 1.0), vector
            beside = below
        return Solved(solution, {})

"""Conjugate gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import dense
from bilevel_cli.core.claim import NoSolution
from bilevel_cli.linear_solvers.base import KrylovSolver, Matvec, Solved, krylov_bases

# A direction of less curvature than FLAT * eps * |H| has none: rounding alone gives it eps * |H|.
FLAT = 10.0
# On positive definite H the error falls in the norm of H, so a residual is at most sqrt(cond(H))
# times an earlier one. A residual that grows by eps^-1/2 thus shows a matrix that is singular to
# working precision. One that ends above that of v = 0, and above GROWTH times its smallest, shows a
# right-hand side that is nearly out of the range. Among 400 random matrices of 60 rows, no solve of
# ten steps ended like that at condition 1e4; at condition 1e6 three did, with an error of 99 %.
GROWTH = 10.0


@dataclass(frozen=True)
class ConjugateGradient(KrylovSolver):
    """Conjugate gradient (Hestenes & Stiefel, 1952), for positive definite H.

    Exact after n products in exact arithmetic. The iterate is frozen, and kept, once the residual
    is small. Where H is not positive definite, the method breaks down: it meets a direction of zero
    or negative curvature; or, where the right-hand side leaves the range of a singular H, the
    residual grows. Then the solve stops, and returns the iterate of smallest residual, which may be
    the guess.

    Reports `adjoint_stopped`: 1 where it broke down before the residual was below sqrt(eps) of the
    right-hand side, else 0.

    Args:
        max_steps: Number of products with H, besides the one for the first residual.
        rtol: Relative residual at which the iterate is frozen.
    """

    advice = (
        "Raise method.linear_solver.max_steps, or use method=minres, which serves an indefinite or "
        "singular Hessian too."
    )

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        share = row.get("adjoint_stopped", 0.0)
        if share == 0:
            return super().doubts(row)
        where = "" if share == 1 else f" in {share:.1%} of the inner problems"
        return {
            "curvature": (
                "Conjugate gradient needs a positive definite inner Hessian, and met one that is "
                f"singular, nearly so or indefinite{where}: it kept its best iterate, with "
                f"adjoint_residual={row.get('adjoint_residual', float('nan')):.3g}. Use "
                "method=minres, method=galet or method=pseudo_inverse, or method/linear_solver="
                "minres to keep the rest of the method; or make the inner loss strongly convex, "
                "such as by solver=weight_decay. The outer step size is not the cause."
            )
        }

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        """As `KrylovSolver.inverse`, but where `solve` breaks down, that of the best iterate."""
        if rounds > 1:
            return super().inverse(hessian, rhs, rounds)
        found = best = torch.zeros_like(hessian)
        left = least = rhs.norm()
        size, stopped = torch.zeros_like(left), False
        for basis in krylov_bases(hessian, rhs, self.max_steps):
            if left <= self.rtol * rhs.norm() or stopped:
                break
            # The direction in which this space extends the last one, conjugate to that.
            direction = basis[:, -1] - found @ (hessian @ basis[:, -1])
            direction = direction / direction.norm()
            size = torch.maximum(size, (hessian @ direction).norm())
            # Central differences leave 1e-11 of |H| in the curvature of a flat direction.
            if direction @ hessian @ direction <= 1e-9 * size:
                stopped = True
                break
            found = self.iterate(basis, hessian)
            left = (rhs - hessian @ (found @ rhs)).norm()
            if left < least:
                best, least = found, left
            stopped = bool(left > least / torch.finfo(rhs.dtype).eps ** 0.5)
        return best if stopped or left > max(rhs.norm(), GROWTH * least) else found

    def iterate(self, basis: Tensor, hessian: Tensor) -> Tensor:
        # The solution on the Krylov space is V (V'HV)^-1 V' rhs, with the basis V.
        return basis @ dense.solve(basis.T @ hessian @ basis, basis.T)

    def limit(self, hessian: Tensor) -> Tensor:
        if not torch.linalg.eigvalsh(hessian.double())[0] > 0:
            raise NoSolution(
                "conjugate gradient needs a positive definite inner Hessian to have a limit"
            )
        return super().limit(hessian)

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        eps = torch.finfo(rhs.dtype).eps
        solution = guess
        residual = rhs - matvec(guess)
        direction = residual
        norm2 = residual @ residual
        target = self.rtol**2 * (rhs @ rhs)
        active = norm2 > target
        best, least = solution, norm2
        # Residuals below this are solved for all purposes: their growth is that of rounding.
        floor = eps * torch.maximum(rhs @ rhs, norm2)
        size2, stopped = torch.zeros_like(norm2), torch.zeros_like(active)
        for _ in range(self.max_steps):
            product = matvec(direction)
            curvature, length2 = direction @ product, direction @ direction
            size2 = torch.maximum(size2, product @ product / torch.where(active, length2, 1.0))
            # Never again active once frozen; and where not active, divided by one instead of zero.
            # `not <= ...` rather than `> ...`: a NaN must reach the result, where it is reported.
            flat = curvature <= FLAT * eps * size2.sqrt() * length2
            stopped = stopped | (active & flat)
            active = active & ~flat
            step = torch.where(active, norm2 / torch.where(active, curvature, 1.0), 0.0)
            solution = solution + step * direction
            residual = residual - step * product
            before, norm2 = norm2, residual @ residual
            ratio = norm2 / torch.where(active, before, 1.0)
            direction = torch.where(active, residual + ratio * direction, direction)
            better = norm2 < least
            best, least = torch.where(better, solution, best), torch.where(better, norm2, least)
            stopped = stopped | (active & (norm2 > torch.maximum(least, floor) / eps))
            active = active & ~(norm2 <= target) & ~stopped
        stopped = stopped | (norm2 > torch.maximum(rhs @ rhs, GROWTH**2 * least))
        unsolved = stopped & (least > torch.maximum(target, floor))
        return Solved(
            torch.where(stopped, best, solution), {"adjoint_stopped": unsolved.to(rhs.dtype)}
        )

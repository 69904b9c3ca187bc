"""Gradient descent on the squared residual."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.linear_solvers.base import (
    LinearSolver,
    Matvec,
    Solved,
    check_step_size,
    check_steps,
    filtered,
    transposed,
)


@dataclass(frozen=True)
class LeastSquares(LinearSolver):
    """v_{j+1} = v_j - step_size^2 * H^T (H v_j - rhs): gradient descent on |H v - rhs|^2 / 2.

    It serves curvature of both signs, an H that is not symmetric, and a singular one. From zero on,
    it tends to the solution of the pseudo-inverse, the least-squares solution of smallest norm.
    Converges when step_size < sqrt(2) / |H|, as slowly as the square of the condition number says
    (Landweber, 1951; the implicit step of GALET, Xiao, Lu & Chen, 2023, arXiv:2306.02422, whose rho
    is step_size^2).

    Args:
        max_steps: Number of steps, of two products each.
        step_size: Usually the step size of the inner solver.
    """

    max_steps: int
    step_size: float

    symmetric = False
    advice = (
        "Set method.linear_solver.step_size below sqrt(2) / (largest eigenvalue of the "
        "inner Hessian in magnitude): seven tenths of a solver.lr at which the inner loop "
        "converges will do. Or raise method.linear_solver.max_steps, or use method=minres, which "
        "needs no step size."
    )

    def __post_init__(self) -> None:
        check_steps("LeastSquares", self.max_steps)
        check_step_size("LeastSquares", self.step_size)

    def products(self, size: int) -> int:
        return 2 * self.max_steps

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        powers = torch.arange(rounds * self.max_steps, device=rhs.device)[:, None]

        def response(squares: Tensor) -> Tensor:
            return self.step_size**2 * ((1 - self.step_size**2 * squares) ** powers).sum(0)

        return filtered(hessian.T @ hessian, response) @ hessian.T

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        solution, back = guess, transposed(matvec, rhs)
        for _ in range(self.max_steps):
            slope = back(matvec(solution) - rhs)
            solution = solution - self.step_size**2 * slope
        return Solved(solution, {})

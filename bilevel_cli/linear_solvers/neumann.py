"""The Neumann series."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import dense
from bilevel_cli.linear_solvers.base import (
    LinearSolver,
    Matvec,
    Solved,
    check_step_size,
    check_steps,
)


@dataclass(frozen=True)
class Neumann(LinearSolver):
    """Truncated Neumann series, v_{j+1} = v_j + step_size * (rhs - H v_j).

    Converges when step_size < 2 / (largest eigenvalue of H); where H is not symmetric, when all
    eigenvalues of I - step_size * H are below 1 in magnitude. Begun at zero, `max_steps` terms
    equal backpropagation through as many inner steps at the solution (Lorraine et al., 2020,
    arXiv:1911.02590).

    Args:
        max_steps: Number of terms, and of products with H.
        step_size: Usually the step size of the inner solver.
    """

    max_steps: int
    step_size: float

    symmetric = False
    advice = (
        "Set method.linear_solver.step_size below 2 / (largest eigenvalue of the inner Hessian): "
        "a solver.lr at which gradient descent converges will do. Or raise "
        "method.linear_solver.max_steps, or use method=cg, which needs no step size."
    )

    def __post_init__(self) -> None:
        check_steps("Neumann", self.max_steps)
        check_step_size("Neumann", self.step_size)

    def products(self, size: int) -> int:
        return self.max_steps

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        eye = torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device)
        terms = rounds * self.max_steps
        return self.step_size * dense.power_sum(eye - self.step_size * hessian, terms)

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        solution = guess
        for _ in range(self.max_steps):
            solution = solution + self.step_size * (rhs - matvec(solution))
        return Solved(solution, {})

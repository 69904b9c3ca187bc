"""No linear solve at all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.residuals import WORSE_THAN_NONE
from bilevel_cli.linear_solvers.base import LinearSolver, Matvec, Solved


@dataclass(frozen=True)
class Identity(LinearSolver):
    """v = rhs, as if the Hessian were the identity.

    T1-T2 (Luketina et al., 2016, arXiv:1511.06727).
    """

    symmetric = False
    residual_limit = WORSE_THAN_NONE  # it solves no system
    advice = (
        "The inner Hessian is far from the identity. Use method=cg, or method=minres where it may "
        "be indefinite."
    )

    def products(self, size: int) -> int:
        return 0

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        return torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device)

    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        del matvec, guess
        return Solved(rhs, {})

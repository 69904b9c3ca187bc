"""The interface of linear solvers."""

import abc
from collections.abc import Callable

from torch import Tensor

Matvec = Callable[[Tensor], Tensor]


class LinearSolver(abc.ABC):
    @abc.abstractmethod
    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Tensor:
        """An approximate solution v of H v = rhs.

        The number of products is fixed by the solver's settings: convergence is expressed by
        masking updates, not by leaving the loop, so that solves can be mapped and captured.

        Args:
            matvec: Computes H v, for the symmetric H.
            rhs: The right-hand side, of shape [n].
            guess: Where an iterative solver begins, of shape [n].
        """

    @abc.abstractmethod
    def products(self, size: int) -> int:
        """The number of products with H that `solve` takes for n = `size`."""


def check_steps(solver: str, max_steps: int) -> None:
    """Raises ValueError unless `max_steps` is a usable number of iterations."""
    if max_steps < 1:
        raise ValueError(
            f"{solver} needs max_steps >= 1 products, got max_steps={max_steps}. "
            "Use method/linear_solver=identity for none."
        )

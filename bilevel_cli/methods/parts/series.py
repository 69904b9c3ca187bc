"""Neumann series of the inverse Hessian with a minibatch for each product."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.residuals import WORSE_THAN_NONE, residual_doubt
from bilevel_cli.core.trees import Params

Product = Callable[[int, Params], Params]  # (i, v) -> H_i v, on minibatch i


@dataclass(frozen=True)
class Series(abc.ABC):
    """step_size * sum_{j < terms} (I - step_size * H)^j rhs, or an estimate of it: about H^-1 rhs.

    Converges for step_size < 2 / (largest eigenvalue of H). Its length is the number of terms. It
    takes one product less, each on a minibatch of its own.

    Args:
        terms: Terms of the series, >= 1.
        step_size: Usually the learning rate of the inner solver, > 0.
    """

    terms: int
    step_size: float

    random = False  # whether `sum` estimates the series, by numbers that `draw` draws

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.terms < 1:
            raise ValueError(
                f"{name} needs terms >= 1, got terms={self.terms}. Set method.series.terms."
            )
        if not 0 < self.step_size < math.inf:
            raise ValueError(
                f"{name} needs a finite step_size > 0, got step_size={self.step_size}. "
                "Set method.series.step_size, e.g. to the step size of the inner solver."
            )

    @property
    def products(self) -> int:
        """Products with a Hessian that one sum takes."""
        return self.terms - 1

    def draw(self, generator: torch.Generator) -> Params:
        """The random numbers that one sum consumes."""
        del generator
        return {}

    @abc.abstractmethod
    def sum(self, product: Product, rhs: Params, noise: Params) -> tuple[Params, Params]:
        """The sum, or an estimate of it; and its last term, without the step size.

        Without noise that term is rhs - H v, where v is the sum of the terms before it.

        Args:
            product: H_i v for the i-th minibatch, i < `products`, of the shapes of v.
            rhs: What the series is applied to, of the shapes of the inner parameters.
            noise: The random numbers of `draw`.
        """

    def matrix(self, hessian: Tensor) -> Tensor:
        """The matrix [n, n] of the sum for a dense Hessian [n, n]; of estimates, their mean."""
        identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
        found = torch.zeros_like(hessian)
        for power in range(self.terms):
            found += torch.linalg.matrix_power(identity - self.step_size * hessian, power)
        return self.step_size * found


def series_doubt(row: dict[str, float]) -> dict[str, str]:
    """The doubt that a series diverges, as `Hypergradient.doubts`."""
    advice = (
        "Lower method.series.step_size, which follows the step size of the solver (solver.lr), "
        "below 2 / (largest eigenvalue of the inner Hessian); or use method=cg."
    )
    return residual_doubt(row, advice, WORSE_THAN_NONE)


@dataclass(frozen=True)
class WholeSeries(Series):
    """All terms, by r_{j+1} = r_j - step_size * H_j r_j from r_0 = rhs: step_size * sum_j r_j."""

    def sum(self, product: Product, rhs: Params, noise: Params) -> tuple[Params, Params]:
        term = total = rhs
        for number in range(self.products):
            term = trees.axpy(-self.step_size, product(number, term), term)
            total = trees.axpy(1.0, term, total)
        return trees.scale(self.step_size, total), term


@dataclass(frozen=True)
class RandomTerm(Series):
    """One term in the place of all: terms * step_size * prod_{j < p} (I - step_size * H_j) rhs.

    p is uniform on 0, ..., terms - 1, so the expectation is the whole sum. Products beyond p are
    taken and dropped: their number must not depend on what was drawn.
    """

    random = True

    def draw(self, generator: torch.Generator) -> Params:
        device = generator.device
        return {"power": torch.randint(self.terms, (), generator=generator, device=device)}

    def sum(self, product: Product, rhs: Params, noise: Params) -> tuple[Params, Params]:
        term = rhs
        for number in range(self.products):
            # A step of zero from the p-th product on.
            step = torch.where(number < noise["power"], self.step_size, 0.0)
            term = trees.axpy(-step, product(number, term), term)
        return trees.scale(self.terms * self.step_size, term), term

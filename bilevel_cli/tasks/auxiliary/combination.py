"""How the losses of several targets become one direction for the inner solver."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.trees import Params
from bilevel_cli.tasks.auxiliary.bargaining import bargained

Losses = Callable[[Params], Tensor]  # of z: those of K targets, of shape [K]


class Combination(abc.ABC):
    """What the inner steps follow, given K losses and K preferences.

    Attributes:
        least: The smallest preference that is admissible.
        descends: Whether that is the gradient of sum_k p_k l_k. If not, the task has a direction.
    """

    least: float
    descends: bool

    @abc.abstractmethod
    def weighted(self, losses: Losses, inner: Params, preference: Tensor) -> Tensor:
        """A loss whose gradient in z is what the inner steps follow, 0-dim.

        Args:
            losses: l(z).
            inner: z.
            preference: p, of shape [K].
        """

    def direction(self, losses: Losses, inner: Params, preference: Tensor) -> Params:
        """What the inner steps follow, with its derivatives. Args: as `weighted`."""
        return autodiff.grad(lambda z: self.weighted(losses, z, preference))(inner)


@dataclass(frozen=True)
class WeightedSum(Combination):
    """sum_k p_k l_k, whose gradient the inner steps follow."""

    least = 0.0
    descends = True

    def weighted(self, losses: Losses, inner: Params, preference: Tensor) -> Tensor:
        return preference @ losses(inner)


@dataclass(frozen=True)
class NashBargain(Combination):
    """sum_k alpha_k grad l_k, with the weights on which a Nash bargain of preferences p agrees.

    They solve (G' G + floor I) alpha = p / alpha, where G holds the K gradients (`bargained`). A
    target whose loss is measured in other units has the same say: alpha_k l_k stays the same.

    With floor = 0 the direction has length 1 wherever it is: it never vanishes, and gradient
    descent comes to circle at the distance of its step size. A floor lets it vanish, where
    sum_k sqrt(p_k) grad l_k does: a bargain of gradients that are short beside sqrt(floor) has
    alpha_k = sqrt(p_k / floor).

    Args:
        newton_steps: Shortened steps of Newton's method for alpha, >= 1.
        floor: Added to the squared length of each gradient, >= 0. At 0 a gradient that vanishes
            alone makes its weight infinite.
        least: The smallest preference that is admissible, > 0 and small.
    """

    newton_steps: int
    floor: float
    least: float

    descends = False

    def __post_init__(self) -> None:
        if self.newton_steps < 1:
            raise ValueError(
                f"NashBargain needs newton_steps >= 1, got newton_steps={self.newton_steps}. "
                "Set task.combination.newton_steps."
            )
        if not 0 <= self.floor < math.inf:
            raise ValueError(
                f"NashBargain needs a finite floor >= 0, got floor={self.floor}. "
                "Set task.combination.floor."
            )
        if not 0 < self.least < 1:
            raise ValueError(
                f"NashBargain needs least above 0 and below 1, got least={self.least}. "
                "Set task.combination.least."
            )

    def weighted(self, losses: Losses, inner: Params, preference: Tensor) -> Tensor:
        z = {name: value.detach() for name, value in inner.items()}
        alpha, _ = self._bargain(losses, z, preference)
        return alpha @ losses(inner)

    def direction(self, losses: Losses, inner: Params, preference: Tensor) -> Params:
        alpha, gradients = self._bargain(losses, inner, preference)
        _, unravel = trees.ravel(inner)
        return unravel(alpha @ gradients)

    def _bargain(self, losses: Losses, inner: Params, preference: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, of shape [K], and the gradients, of shape [K, size of z]."""
        values, pullback = autodiff.vjp(losses, inner)
        units = torch.eye(len(values), dtype=values.dtype, device=values.device)
        gradients = torch.stack([trees.ravel(pullback(unit)[0])[0] for unit in units])
        # In float64: the squares of the short gradients near a solution have no room in float32.
        wide = gradients.double()
        gram = wide @ wide.mT + self.floor * units.double()
        return bargained(gram, preference, self.newton_steps).to(values.dtype), gradients

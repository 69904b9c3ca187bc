"""The gradient of sharpness-aware steps, for solvers and for training that is no inner problem."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Sharpness:
    """The gradient at z + e, where f is steepest around z.

        e = rho g / |g|,                 g = grad f(z)           (SAM: Foret et al., 2021)
        e = rho z^2 g / | |z| g |,       entry by entry          (adaptive: Kwon et al., 2021)

    With alpha > 0, the part of g that is orthogonal to the gradient h at z + e is subtracted alpha
    times: h - alpha (g - (g.h / |h|^2) h), the surrogate gap of GSAM (Zhuang et al., 2022). Flat
    expert trajectories (Du et al., 2023, arXiv:2211.11004) take rho = 0.01, alpha = 0.4 and
    adaptive steps. Where g = 0, e is 0 and is taken for a constant.

    Args:
        rho: Length of e, >= 0; of e / |z| where it is adaptive. 0 for the gradient at z.
        alpha: Weight of the surrogate gap, >= 0; 0 for plain SAM.
        adaptive: Whether e is scaled by the size of each entry of z.
    """

    rho: float
    alpha: float
    adaptive: bool

    def __post_init__(self) -> None:
        for name, number in (("rho", self.rho), ("alpha", self.alpha)):
            if not 0 <= number < math.inf:
                raise ValueError(
                    f"Sharpness-aware steps need a finite {name} >= 0, got {name}={number}. "
                    f"Set {name}."
                )

    def gradient(self, slope: Callable[[Params], Params], z: Params) -> Params:
        """What a sharpness-aware step takes for the gradient at `z`.

        Args:
            slope: The gradient of f. It is asked twice, or once where rho is 0.
            z: Parameters.
        """
        here = slope(z)
        if self.rho == 0:  # both gradients are one
            return here
        there = slope(trees.axpy(1.0, self._ascent(z, here), z))
        if self.alpha == 0:
            return there
        along = trees.dot(here, there) / _positive(trees.dot(there, there))
        return {
            name: (1 + self.alpha * along) * value - self.alpha * here[name]
            for name, value in there.items()
        }

    def _ascent(self, z: Params, gradient: Params) -> Params:
        """e, in the shapes of z."""
        if not self.adaptive:
            return trees.scale(self._share(gradient), gradient)
        share = self._share({name: z[name].abs() * value for name, value in gradient.items()})
        return {name: share * z[name].square() * g for name, g in gradient.items()}

    def _share(self, direction: Params) -> torch.Tensor:
        """rho / |direction|, 0-dim; 0 for a direction of zero, where a root has no derivative."""
        square = trees.dot(direction, direction)
        share = self.rho / _positive(square).sqrt()
        return torch.where(square > 0, share, 0.0)


def _positive(square: torch.Tensor) -> torch.Tensor:
    """A sum of squares, and 1 where it is zero."""
    return torch.where(square > 0, square, 1.0)

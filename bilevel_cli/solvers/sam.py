"""Sharpness-aware steps, around any solver."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle, OracleWrapper
from bilevel_cli.core.solver import SolverState, Wrapper
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class SharpnessAware(Wrapper):
    """Any solver, that is given the gradient at z + e, where f is steepest around z.

        e = rho g / |g|,                 g = grad f(z)           (SAM: Foret et al., 2021)
        e = rho z^2 g / | |z| g |,       entry by entry          (adaptive: Kwon et al., 2021)

    With alpha > 0, the part of g that is orthogonal to the gradient h at z + e is subtracted alpha
    times: h - alpha (g - (g.h / |h|^2) h), the surrogate gap of GSAM (Zhuang et al., 2022). Flat
    expert trajectories (Du et al., 2023, arXiv:2211.11004) take rho = 0.01, alpha = 0.4 and
    adaptive steps.

    With rho = 0 the steps are those of the base, bit for bit. Otherwise they come to rest where the
    gradient vanishes beside z, and not at a minimiser of f. A step takes two inner gradients. Both
    are differentiated. Where g = 0, e is 0 and is taken for a constant.

    Args:
        base: The solver to run.
        rho: Length of e, >= 0; of e / |z| where it is adaptive.
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
                    f"SharpnessAware needs a finite {name} >= 0, got {name}={number}. "
                    f"Set solver.{name}."
                )

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        if self.rho == 0:  # both gradients are one
            return self.base.step(oracle, state)
        return self.base.step(_Ascended(oracle, self), state)

    @cached_property
    def gradients(self) -> int:
        return (1 if self.rho == 0 else 2) * self.base.gradients

    @property
    def no_minimiser(self) -> str:
        if self.rho == 0:
            return self.base.no_minimiser
        return self.base.no_minimiser or (
            "sharpness-aware steps, which come to rest beside a minimiser"
        )


@dataclass(frozen=True)
class _Ascended(OracleWrapper):
    settings: SharpnessAware

    def inner_grad(self, inner: Params) -> Params:
        here, alpha = self.base.inner_grad(inner), self.settings.alpha
        there = self.base.inner_grad(trees.axpy(1.0, self._ascent(inner, here), inner))
        if alpha == 0:
            return there
        along = trees.dot(here, there) / _positive(trees.dot(there, there))
        return {
            name: (1 + alpha * along) * value - alpha * here[name] for name, value in there.items()
        }

    def _ascent(self, inner: Params, gradient: Params) -> Params:
        """e, in the shapes of z."""
        if not self.settings.adaptive:
            return trees.scale(self._share(gradient), gradient)
        scaled = {name: inner[name].abs() * value for name, value in gradient.items()}
        share = self._share(scaled)
        return {name: share * inner[name].square() * g for name, g in gradient.items()}

    def _share(self, direction: Params) -> torch.Tensor:
        """rho / |direction|, 0-dim; 0 for a direction of zero, where a root has no derivative."""
        square = trees.dot(direction, direction)
        share = self.settings.rho / _positive(square).sqrt()
        return torch.where(square > 0, share, 0.0)


def _positive(square: torch.Tensor) -> torch.Tensor:
    """A sum of squares, and 1 where it is zero."""
    return torch.where(square > 0, square, 1.0)

"""Sharpness-aware steps, around any solver."""

from dataclasses import dataclass
from functools import cached_property

from bilevel_cli.core.oracle import Oracle, OracleWrapper
from bilevel_cli.core.solver import SolverState, Wrapper
from bilevel_cli.core.trees import Params
from bilevel_cli.solvers.sharpness import Sharpness


@dataclass(frozen=True)
class SharpnessAware(Wrapper):
    """Any solver, given the gradient of `Sharpness`: that at z + e, where f is steepest around z.

    With rho = 0 the steps are those of the base, bit for bit. Otherwise they come to rest where the
    gradient vanishes beside z, and not at a minimiser of f. A step takes two inner gradients. Both
    are differentiated.

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
        assert self.sharpness  # which checks the numbers

    @cached_property
    def sharpness(self) -> Sharpness:
        return Sharpness(self.rho, self.alpha, self.adaptive)

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        if self.rho == 0:
            return self.base.step(oracle, state)
        return self.base.step(_Ascended(oracle, self.sharpness), state)

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
    sharpness: Sharpness

    def inner_grad(self, inner: Params) -> Params:
        return self.sharpness.gradient(self.base.inner_grad, inner)

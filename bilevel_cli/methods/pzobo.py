"""Zeroth-order estimation of the best response's derivative."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import copies, perturbations
from bilevel_cli.methods.parts.derivatives import outer_slope


@dataclass(frozen=True)
class Pzobo(Hypergradient[Carry]):
    """Partial zeroth-order bilevel optimizer (Sow, Ji, Liang, 2022, arXiv:2110.07004).

    The derivative of z_K(lambda) is estimated from differences; those of the outer loss are exact:

        g = d_lambda F + mean over i of eps_i * <z_K(lambda + eps_i) - z_K(lambda), d_z F> / std^2,

    eps_i from N(0, std^2), which is mu * u_i of the paper. The mean is the derivative of
    F(z_K(lambda), lambda) where z_K is affine in lambda, and off by O(std^2) elsewhere. Only the
    implicit part is noisy: relative standard error sqrt((d + 1) / directions) for d outer
    parameters.

    Under `start=warm` every particle begins where the unperturbed one stopped.

    Cost: the inner gradients of directions + 1 inner loops. Memory: as many solver states.

    Args:
        directions: Perturbations.
        std: Their standard deviation, in the unit of the outer parameters.
    """

    directions: int
    std: float

    def __post_init__(self) -> None:
        perturbations.check_settings("Pzobo", self.std, directions=self.directions)

    def holds(self, sizes: Sizes) -> Parts:
        return copies.particles(sizes, self.directions + 1, "method.directions")

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return perturbations.normal(outer, self.directions, self.std, generator)

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        copies.measure(loop, outer, data)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        def last(outer: Params) -> SolverState:
            return loop.run(loop.begin(outer, data, carry["inner"]), outer, data)

        some = copies.at_once(copies.particles, self.directions + 1, loop, outer, data)
        states = copies.mapped(last, some, perturbations.around(outer, data.noise))
        state = perturbations.unperturbed(states)
        direct_inner, direct, loss = outer_slope(loop.problem, state["inner"], outer, data.outer)
        slopes = [
            ((states["inner"][name][1:] - z) * direct_inner[name]).reshape(self.directions, -1)
            for name, z in state["inner"].items()
        ]
        weights = torch.cat(slopes, 1).sum(1) / (self.std**2 * self.directions)
        return Estimate(
            grad=trees.axpy(1.0, perturbations.combine(weights, data.noise), direct),
            loss=loss,
            carry={"inner": state},
            metrics={},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost((self.directions + 1) * num_steps, 0)

    def claim(self) -> Claim:
        directions = max(self.directions, perturbations.ENOUGH)
        base = replace(self, directions=directions, std=min(self.std, perturbations.NARROW))
        return perturbations.mean_claim("dF(z_K)/dlambda in the mean", references.unrolled, base)

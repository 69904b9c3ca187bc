"""Evolution strategies over the whole inner loop."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import copies, perturbations


@dataclass(frozen=True)
class Es(Hypergradient[Carry]):
    """Antithetic evolution strategies (Salimans et al., 2017, arXiv:1703.03864; for unrolled inner
    problems, Metz et al., 2019, arXiv:1810.10180).

        g = mean over pairs of eps * (L(lambda + eps) - L(lambda - eps)) / (2 std^2),
        L(lambda) = F(z_K(lambda), lambda),    eps from N(0, std^2).

    The mean over eps is the gradient of L smoothed by a Gaussian: that of L itself where L is
    quadratic, and off by O(std^2) elsewhere. The relative standard error is
    sqrt((d + 1) / pairs) for d outer parameters.

    No derivative is taken of the inner loop, and the outer parameters may act in any way: through
    either loss, or through the start. Every particle sees the same data and begins by the start
    policy. Under `start=warm` all begin where the unperturbed particle stopped.

    Cost: the inner gradients of 2 pairs + 1 inner loops. The one beside the pairs is not perturbed:
    the task evaluates its inner parameters. Memory: as many solver states, whatever K.

    Args:
        pairs: Antithetic pairs.
        std: Standard deviation of the perturbations, in the unit of the outer parameters.
    """

    pairs: int
    std: float

    def __post_init__(self) -> None:
        perturbations.check_settings("Es", self.std, pairs=self.pairs)

    def holds(self, sizes: Sizes) -> Parts:
        return copies.particles(sizes, 2 * self.pairs + 1, "method.pairs")

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return perturbations.normal(outer, self.pairs, self.std, generator)

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        copies.measure(loop, outer, data)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        def final_loss(outer: Params) -> tuple[Tensor, SolverState]:
            state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
            return loop.problem.outer_loss(state["inner"], outer, data.outer), state

        particles = perturbations.around(outer, perturbations.mirrored(data.noise))
        some = copies.at_once(copies.particles, 2 * self.pairs + 1, loop, outer, data)
        losses, states = copies.mapped(final_loss, some, particles)
        plus, minus = losses[1:].chunk(2)
        weights = (plus - minus) / (2 * self.std**2 * self.pairs)
        return Estimate(
            grad=perturbations.combine(weights, data.noise),
            loss=losses[0],
            carry={"inner": perturbations.unperturbed(states)},
            metrics={},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost((2 * self.pairs + 1) * num_steps, 0)

    def claim(self) -> Claim:
        pairs, std = max(self.pairs, perturbations.ENOUGH), min(self.std, perturbations.NARROW)
        base = replace(self, pairs=pairs, std=std)
        return perturbations.mean_claim("dF(z_K)/dlambda in the mean", references.unrolled, base)

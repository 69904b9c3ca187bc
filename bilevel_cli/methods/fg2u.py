"""Forward gradients of the unrolled inner loop."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import copies, perturbations
from bilevel_cli.methods.parts.unroll import inner_grads


@dataclass(frozen=True)
class Fg2u(Hypergradient[Carry]):
    """Forward gradient unrolling with forward gradient, (FG)^2U (Shen et al., 2024,
    arXiv:2406.14095).

    With L(lambda) = F(z_K(lambda), lambda) and independent signs v_i in {-1, 1}^d,

        g = mean over i of (grad L . v_i) v_i,

    where the derivatives of L along v_i are carried forward through the inner steps and the start.
    Unbiased, with covariance (|grad L|^2 I + grad L grad L' - 2 diag(grad L)^2) / directions: the
    relative standard error is sqrt((d - 1) / directions) for d outer parameters.

    Cost: K inner gradients, and a second-order product for each of them and each direction.
    Memory: one solver state for each direction, whatever K and d.

    Args:
        directions: Random directions.
    """

    directions: int

    def __post_init__(self) -> None:
        perturbations.check_settings("Fg2u", directions=self.directions)

    def holds(self, sizes: Sizes) -> Parts:
        return copies.tangents(sizes, self.directions, "method.directions")

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return {
            name: 2.0
            * torch.randint(
                2,
                (self.directions, *value.shape),
                generator=generator,
                dtype=value.dtype,
                device=value.device,
            )
            - 1.0
            for name, value in outer.items()
        }

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        copies.measure(loop, outer, data)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        def final_loss(steps: Tensor) -> tuple[Tensor, tuple[Tensor, SolverState]]:
            # One input for each direction: forward mode then carries these tangents and no more.
            moved = trees.axpy(1.0, perturbations.combine(steps, data.noise), outer)
            state = loop.run(loop.begin(moved, data, carry["inner"]), moved, data)
            loss = loop.problem.outer_loss(state["inner"], moved, data.outer)
            return loss, (loss, state)

        origin = next(iter(outer.values())).new_zeros(self.directions)
        some = copies.at_once(copies.tangents, self.directions, loop, outer, data)
        jacobian = autodiff.jacfwd(final_loss, has_aux=True, at_once=some)
        slopes, (loss, state) = jacobian(origin)
        grad = perturbations.combine(slopes / self.directions, data.noise)
        counts = copies.evaluations(data.num_steps, self.directions, some, outer)
        return Estimate(grad, loss, {"inner": state}, counts)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(inner_grads(metrics, num_steps), num_steps * self.directions)

    def claim(self) -> Claim:
        base = replace(self, directions=max(self.directions, perturbations.ENOUGH))
        return perturbations.mean_claim(
            "dF(z_K)/dlambda in the mean", references.unrolled, base, perturbs=False
        )

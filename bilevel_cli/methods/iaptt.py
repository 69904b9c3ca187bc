"""Unrolling to the pessimistic step."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli import autodiff, claims
from bilevel_cli.claims import Claim, Trial
from bilevel_cli.loop import InnerLoop
from bilevel_cli.methods.base import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.problem import StepData
from bilevel_cli.solvers.base import SolverState
from bilevel_cli.trees import Params


@dataclass(frozen=True)
class Iaptt(Hypergradient[Carry]):
    """Pessimistic trajectory truncation (Liu et al., 2021, "Towards Gradient-based Bilevel
    Optimization with Non-convex Followers and Beyond", arXiv:2110.00455).

    Differentiates the largest outer loss along the inner trajectory,

        dF/dlambda = d/dlambda max_k F(z_k(lambda), lambda),    k = 1..K, the first on ties,

    through the k steps that led to it. The paper's other half, an auxiliary initialisation of the
    inner problem, is the start policy `start=learned`. Reports k as `pessimistic_step`.

    Cost: K inner gradients, K outer losses, and a backward pass over k steps.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        step = metrics["pessimistic_step"]
        return Cost(num_steps, step if step.device.type == "cpu" else num_steps)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        def pessimistic_loss(outer: Params) -> tuple[Tensor, tuple[SolverState, Tensor, Tensor]]:
            state = loop.begin(outer, data, carry["inner"])
            losses = []
            for t in range(data.num_steps):
                state = loop.step(state, outer, data, t)
                losses.append(loop.problem.outer_loss(state["inner"], outer, data.outer))
            worst = torch.stack(losses).max(dim=0)
            # On a CPU the index is at hand, and the graph behind it ends at the pessimistic step.
            # Elsewhere asking for it would stop the device, and under mapping there is no single
            # one: then the later steps are differentiated too, with weight zero.
            at_hand = worst.indices.device.type == "cpu" and not autodiff.mapped()
            loss = losses[int(worst.indices)] if at_hand else worst.values
            return loss, (state, losses[-1], worst.indices)

        value_fn = autodiff.grad_and_value(pessimistic_loss, has_aux=True)
        grad, (worst, (state, loss, index)) = value_fn(outer)
        metrics = {"pessimistic_loss": worst, "pessimistic_step": index + 1}
        return Estimate(grad, loss, {"inner": state}, metrics)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            loop, data = trial.loop, trial.data

            def largest(outer: Params) -> Tensor:
                state = loop.begin(outer, data, trial.carry["inner"])
                losses = []
                for t in range(data.num_steps):
                    state = loop.step(state, outer, data, t)
                    losses.append(loop.problem.outer_loss(state["inner"], outer, data.outer))
                return torch.stack(losses).amax()

            return claims.differenced(largest, trial.outer)

        return Claim("d max_k F(z_k)/dlambda", reference)

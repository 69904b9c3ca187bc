"""Unrolling to the pessimistic step."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.host import is_host
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.unroll import Steps, counted, inner_grads


@dataclass(frozen=True)
class Iaptt(Hypergradient[Carry]):
    """Pessimistic trajectory truncation (Liu et al., 2021, "Towards Gradient-based Bilevel
    Optimization with Non-convex Followers and Beyond", arXiv:2110.00455).

    Differentiates the largest outer loss along the inner trajectory,

        dF/dlambda = d/dlambda max_k F(z_k(lambda), lambda),    k = 1..K, the first on ties,

    through the k steps that led to it. The paper's other half, an auxiliary initialisation of the
    inner problem, is the start policy `start=learned`. Reports k as `pessimistic_step`, and what
    it took as `inner_grads` and `hvps`.

    On a CPU the graph covers the steps up to the largest outer loss so far, and one more. So it
    takes the memory of k + 1 steps, or less by the memory budget of the device. Where a larger loss
    follows smaller ones, the steps in between are run again with a graph. On other devices, and
    where estimates are mapped or compiled, nobody may ask which step it is: all K graphs are held,
    and those of later steps are differentiated with weight zero.

    Cost: K inner gradients, and those of steps run again; K outer losses; a backward pass over k,
    or over K where all graphs are held.
    """

    def holds(self, sizes: Sizes) -> Parts:
        what = f"the graphs of {sizes.steps} inner steps"
        return (Part(what, sizes.steps * sizes.graph, ("inner_steps",), within=True),)

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        return step > 1  # a path of one inner step from zero sees no penalty on what is zero

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        some = next(iter(outer.values()))
        if is_host(some.device) and not autodiff.mapped():
            return _followed(loop, outer, data, carry)
        return _held(loop, outer, data, carry)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        if not is_host(next(iter(outer.values())).device):  # all graphs are held: nobody reads it
            return Cost(num_steps, num_steps)
        return Cost(inner_grads(metrics, num_steps), metrics.get("hvps", num_steps))

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

            return references.differenced(largest, trial.outer)

        return Claim("d max_k F(z_k)/dlambda", reference)


def _followed(loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
    steps, held = Steps(loop, outer, data), True

    def pessimistic_loss(outer: Params) -> tuple[Tensor, tuple[SolverState, Tensor, Tensor]]:
        nonlocal held
        state = worst_state = loop.begin(outer, data, carry["inner"])
        loss = worst = torch.empty(0)
        worst_step = 0
        for t in range(data.num_steps):
            fits = steps.capacity is None or t < steps.capacity
            if not fits or worst_step < t:  # this step is not known to lead to a larger loss
                state = _constant(state)
            state = steps.advance(state, outer, t, t + 1, measure=t < 2)
            loss = loop.problem.outer_loss(state["inner"], outer, data.outer)
            if worst_step and (loss <= worst or worst.isnan()):
                continue
            if not fits:
                held, loss, state = False, loss.detach(), _constant(state)
            elif worst_step < t:
                state = steps.advance(worst_state, outer, worst_step, t + 1)
                loss = loop.problem.outer_loss(state["inner"], outer, data.outer)
            worst, worst_step, worst_state = loss, t + 1, state
        return worst, (state, loss, torch.tensor(worst_step))

    value_fn = autodiff.grad_and_value(pessimistic_loss, has_aux=True)
    grad, (worst, (state, loss, step)) = value_fn(outer)
    if not held:  # the graph is larger than the memory budget
        start = loop.begin(outer, data, carry["inner"])
        grad = steps.to_start(carry["inner"], steps.backward(start, 0, int(step)).slopes)
    metrics = {"pessimistic_loss": worst, "pessimistic_step": step}
    return Estimate(grad, loss, {"inner": state}, metrics | steps.metrics() | {"hvps": step})


def _constant(state: SolverState) -> SolverState:
    constant: SolverState = trees.map_leaves(Tensor.detach, state)
    return constant


def _held(loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
    def pessimistic_loss(outer: Params) -> tuple[Tensor, tuple[SolverState, Tensor, Tensor]]:
        state = loop.begin(outer, data, carry["inner"])
        losses = []
        for t in range(data.num_steps):
            state = loop.step(state, outer, data, t)
            losses.append(loop.problem.outer_loss(state["inner"], outer, data.outer))
        worst = torch.stack(losses).max(dim=0)
        return worst.values, (state, losses[-1], worst.indices)

    value_fn = autodiff.grad_and_value(pessimistic_loss, has_aux=True)
    grad, (worst, (state, loss, index)) = value_fn(outer)
    metrics = {"pessimistic_loss": worst, "pessimistic_step": index + 1}
    # Every step was taken once, and differentiated.
    taken = counted(data.num_steps, outer)
    costs = {"inner_grads": taken, "hvps": taken}
    return Estimate(grad, loss, {"inner": state}, metrics | costs)

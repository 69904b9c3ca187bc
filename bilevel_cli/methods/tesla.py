"""Unrolling in constant memory, with the identity for how a state depends on the one before."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import outer_slope


@dataclass(frozen=True)
class Tesla(Hypergradient[Carry]):
    """Every inner step's own part, all of them against one cotangent (Cui et al., 2023,
    "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", arXiv:2211.10586).

        dF/dlambda = d_lambda F + sum_t (d_lambda Phi_t(z_t))^T d_z F(z_K) + (dz_0/dlambda)^T d_z F

    Phi_t is a step of the inner solver. Its derivative in z_t is taken for the identity, and that
    in any memory of the solver for zero. For gradient descent with constant step sizes and the loss
    |z_K - target|^2, this is TESLA's gradient. It is exact where minibatches of different steps
    share no outer parameters and curvature is ignored.

    Memory: the graph of one step, whatever K.

    Cost: 2 K inner gradients, and K products with the cross derivative.
    """

    def init(self, outer: Params, state: Any) -> Carry:
        return {"inner": state}

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        state, through_start = loop.begin_with_pullback(outer, data, carry["inner"])
        last = loop.run(state, outer, data)
        cotangent, direct, loss = outer_slope(loop.problem, last["inner"], outer, data.outer)
        grad = trees.axpy(1.0, through_start(cotangent), direct)
        # A second pass, since the cotangent is known at its end alone: no state is kept.
        for t in range(data.num_steps):

            def step(outer: Params, state: Any = state, t: int = t) -> tuple[Params, Any]:
                after = loop.step(state, outer, data, t)
                return after["inner"], after

            _, pullback, state = autodiff.vjp(step, outer, has_aux=True)
            grad = trees.axpy(1.0, pullback(cotangent)[0], grad)
        return Estimate(grad, loss, {"inner": last}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(2 * num_steps, num_steps)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            loop, data = trial.loop, trial.data
            states = [references.state_after(trial, t) for t in range(data.num_steps + 1)]

            def loss(outer: Params) -> Tensor:
                begun = loop.begin(outer, data, trial.carry["inner"])["inner"]
                inner = {n: z + begun[n] - states[0]["inner"][n] for n, z in trial.last.items()}
                for t, state in enumerate(states[:-1]):
                    moved, there = loop.step(state, outer, data, t), states[t + 1]["inner"]
                    inner = {n: z + moved["inner"][n] - there[n] for n, z in inner.items()}
                return loop.problem.outer_loss(inner, outer, data.outer)

            return references.differenced(loss, trial.outer)

        return Claim("dF/dlambda, with dz_{t+1}/dz_t taken for the identity", reference)

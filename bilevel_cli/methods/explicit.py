"""The hypergradient without the response of the inner parameters."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import outer_loss_contains_outer
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import outer_slope


@dataclass(frozen=True)
class Explicit(Hypergradient[Carry]):
    """The partial derivative d_lambda F(z_K, lambda) behind the inner loop, z_K being a constant.

    The hypergradient has a second term, (dz_K/dlambda)^T d_z F: how the inner parameters respond.
    This method leaves it out, as alternating descent does. TURTLE (Gadetsky et al., 2024,
    arXiv:2406.07236) learns labels in this way. `Direct` takes the same derivative before the inner
    loop, and that of the start with it.

    It is the whole hypergradient where d_z F vanishes at z_K, such as where F is f and the inner
    problem is solved; else it is biased, and does not become better with more inner steps.

    Cost: K inner gradients, and no second derivative.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = (outer_loss_contains_outer,)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        _, direct, loss = outer_slope(loop.problem, state["inner"], outer, data.outer)
        return Estimate(direct, loss, {"inner": state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps, 0)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            last = references.state_after(trial, trial.data.num_steps)["inner"]

            def loss(outer: Params) -> Tensor:
                return trial.loop.problem.outer_loss(last, outer, trial.data.outer)

            return references.differenced(loss, trial.outer)

        return Claim("d_lambda F(z_K), with z_K fixed", reference)

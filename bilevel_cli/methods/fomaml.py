"""MAML without second derivatives."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import start_is_learned
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import outer_slope


@dataclass(frozen=True)
class FirstOrderMaml(Hypergradient[Carry]):
    """First-order MAML (Finn et al., 2017, arXiv:1703.03400) takes dz_K/dz_0 for the identity.

        dF/dlambda = d_lambda F + (dz_0/dlambda)^T d_z F,    both at z_K.

    It learns the start of the inner loop, and outer parameters in the outer loss itself, such as
    features that all episodes share. Outer parameters that act through the inner loss alone, such
    as weights of examples, get gradient 0.

    Cost: K inner gradients, and no second derivative.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = (start_is_learned,)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        begun, pullback = loop.begin_with_pullback(outer, data, carry["inner"])
        state = loop.run(begun, outer, data)
        direct_inner, direct, loss = outer_slope(loop.problem, state["inner"], outer, data.outer)
        grad = trees.axpy(1.0, pullback(direct_inner), direct)
        return Estimate(grad, loss, {"inner": state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps, 0)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            loop, data, previous = trial.loop, trial.data, trial.carry["inner"]
            drift = trees.axpy(
                -1.0, loop.begin(trial.outer, data, previous)["inner"], trial.last
            )  # the whole inner loop, as a constant

            def loss(outer: Params) -> Tensor:
                inner = trees.axpy(1.0, drift, loop.begin(outer, data, previous)["inner"])
                return loop.problem.outer_loss(inner, outer, data.outer)

            return references.differenced(loss, trial.outer)

        return Claim("dF(z_0 + drift)/dlambda, with the drift of the inner loop fixed", reference)

"""The start moves towards where the inner loop leads."""

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


@dataclass(frozen=True)
class Reptile(Hypergradient[Carry]):
    """Reptile (Nichol, Achiam & Schulman, 2018, arXiv:1803.02999) takes z_0 - z_K for the gradient.

    Along it the learned start z_0(lambda) approaches the end of the inner loop: it is

        d/dlambda |z_0(lambda) - z_K|^2 / 2,    with z_K fixed.

    The outer loss is reported, and not descended. All outer parameters but the learned start get
    gradient 0.

    Cost: K inner gradients, and no second derivative.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = (start_is_learned,)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        begun, pullback = loop.begin_with_pullback(outer, data, carry["inner"])
        state = loop.run(begun, outer, data)
        grad = pullback(trees.axpy(-1.0, state["inner"], begun["inner"]))
        loss = loop.problem.outer_loss(state["inner"], outer, data.outer)
        return Estimate(grad, loss, {"inner": state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps, 0)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            def distance(outer: Params) -> Tensor:
                start = trial.loop.begin(outer, trial.data, trial.carry["inner"])["inner"]
                gap = trees.axpy(-1.0, trial.last, start)
                return 0.5 * trees.dot(gap, gap)

            return references.differenced(distance, trial.outer)

        return Claim("d|z_0 - z_K|^2/dlambda / 2, with z_K fixed", reference)

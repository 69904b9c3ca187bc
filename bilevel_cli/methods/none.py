"""No outer optimization: the baseline."""

from dataclasses import dataclass
from typing import Any

from bilevel_cli.core import trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class NoHypergradient(Hypergradient[Carry]):
    """Solves the inner problem and returns a gradient of zero.

    Learned outer parameters are worth what another method gains over this run on the same data.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        return False

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        loss = loop.problem.outer_loss(state["inner"], outer, data.outer)
        return Estimate(trees.zeros_like(outer), loss, {"inner": state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps, 0)

    def claim(self) -> Claim:
        return Claim("zero", lambda trial: trees.zeros_like(trial.outer))

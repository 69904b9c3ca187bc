"""The fully first-order penalty method."""

import math
from dataclasses import dataclass, replace
from typing import Any

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.value_penalty import PenaltyCarry, ValuePenalty, penalised_gradient
from bilevel_cli.solvers.aggregated import Aggregated


@dataclass(frozen=True)
class F2sa(ValuePenalty):
    """Fully first-order stochastic approximation (Kwon et al., 2023, arXiv:2301.10945).

    Runs the inner loop twice, for z on f and for y on f + F / multiplier, and returns

        d_lambda [ F(y, lambda) + multiplier (f(y, lambda) - f(z, lambda)) ],    y, z constant,

    which at converged y and z misses the hypergradient by O(1 / multiplier) where f is strongly
    convex. Between outer steps the multiplier grows by `growth`, so the bias vanishes. An error
    in z enters times the multiplier: the larger the multiplier, the more accurate z has to be.

    The inner step size keeps its meaning as the multiplier grows. The start is not differentiated:
    its outer parameters are refused. Reports the gap f(y) - f(z).

    Cost: 2 K + 2 inner gradients, and no second derivative.

    Args:
        multiplier: The multiplier at the first outer step, > 0. It has to be larger where F is
            steeper than f.
        growth: What each outer step adds to it, >= 0.
    """

    multiplier: float
    growth: float

    def __post_init__(self) -> None:
        if not 0 < self.multiplier < math.inf:
            raise ValueError(
                f"F2sa needs a finite multiplier > 0, got multiplier={self.multiplier}. "
                "Set method.multiplier, e.g. 10."
            )
        if not 0 <= self.growth < math.inf:
            raise ValueError(
                f"F2sa needs a finite growth >= 0, got growth={self.growth}. "
                "Use method.growth=0 for a constant multiplier."
            )

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: PenaltyCarry
    ) -> Estimate:
        multiplier = self.multiplier + self.growth * carry["count"]
        penalised = replace(loop, solver=Aggregated(loop.solver, 1.0, 1 / multiplier))
        y = penalised.run(penalised.begin(outer, data, carry["inner"]), outer, data)
        z = loop.run(loop.begin(outer, data, carry["value"]), outer, data)
        grad, loss, gap = penalised_gradient(
            loop, outer, data, y["inner"], z["inner"], lambda gap: multiplier * gap
        )
        following: PenaltyCarry = {"inner": y, "value": z, "count": carry["count"] + 1}
        return Estimate(grad, loss, following, {"inner_gap": gap, "multiplier": multiplier})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(2 * num_steps + 2, 0)

    def claim(self) -> Claim:
        """The bias is O(1 / multiplier): at a constant one, ten times as large, a tenth."""
        return Claim(
            "the hypergradient, but for O(1/multiplier)",
            references.solution,
            kind="rate",
            repeats=30,
            base=replace(self, multiplier=100.0, growth=0.0),
            variant=replace(self, multiplier=1000.0, growth=0.0),
            ratio=(0.07, 0.14),
        )

"""The Moreau envelope of the inner problem as a penalty."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.value_penalty import (
    PenaltyCarry,
    Proximal,
    ValuePenalty,
    penalised_gradient,
)
from bilevel_cli.solvers.aggregated import Aggregated


@dataclass(frozen=True)
class Meha(ValuePenalty):
    """Moreau-envelope-based Hessian-free algorithm (Liu et al., 2024, arXiv:2405.09927).

    The value function min f of other penalties is replaced by the Moreau envelope

        v(y, lambda) = min_theta f(theta, lambda) + |theta - y|^2 / (2 gamma),

    which, where gamma is below 1 / (weak convexity of f), equals f(y, lambda) at stationary points
    of f and nowhere else. The inner loop alternates a step of theta along that loss, and one of y
    along F / c_k + f - v, which is

        F_y / c_k + f_y(y, lambda) - (y - theta) / gamma.

    The estimate is c_k times the published direction, on the scale of the hypergradient:

        d_lambda [ F(y, lambda) + c_k (f(y, lambda) - f(theta, lambda)) ],    y, theta constant,

    which misses it by O(1 / c_k) at converged y and theta where f is strongly convex. The method
    makes sense wherever f is weakly convex. The paper takes one inner step.

    The start is not differentiated: its outer parameters are refused. Reports the gap
    f(y) - f(theta).

    Cost: 2 K + 2 inner gradients, and no second derivative.

    Args:
        outer_weight: 1 / c_k at outer step k.
        gamma: Width of the envelope, > 0. A large one brings theta near to the minimiser of f.
    """

    outer_weight: PowerLaw
    gamma: float

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise ValueError(
                f"Meha needs a finite gamma > 0, got gamma={self.gamma}. Set method.gamma, e.g. 10."
            )

    follows_inner_loss = False  # theta is held near y

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: PenaltyCarry
    ) -> Estimate:
        weight = self.outer_weight(carry["count"])
        assert isinstance(weight, Tensor)  # as the count is
        theta = loop.begin(outer, data, carry["value"])
        y = loop.begin(outer, data, carry["inner"])
        descent = Aggregated(loop.solver, 1.0, weight)
        for t in range(data.num_steps):
            oracle = loop.oracle(outer, data, t)
            theta = loop.solver.step(Proximal(oracle, 1 / self.gamma, y["inner"]), theta)
            y = descent.step(Proximal(oracle, -1 / self.gamma, theta["inner"]), y)
        grad, loss, gap = penalised_gradient(
            loop, outer, data, y["inner"], theta["inner"], lambda gap: gap / weight
        )
        following: PenaltyCarry = {"inner": y, "value": theta, "count": carry["count"] + 1}
        return Estimate(grad, loss, following, {"inner_gap": gap, "multiplier": 1 / weight})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(2 * num_steps + 2, 0)

    def claim(self) -> Claim:
        """The bias is O(1 / c): at a constant one, ten times as large, a tenth."""
        return Claim(
            "the hypergradient, but for O(1/c)",
            references.solution,
            kind="rate",
            repeats=30,
            base=replace(self, outer_weight=PowerLaw(0.01, 0.0)),
            variant=replace(self, outer_weight=PowerLaw(0.001, 0.0)),
            ratio=(0.07, 0.14),
        )

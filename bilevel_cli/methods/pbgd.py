"""Penalty-based bilevel gradient descent on the value gap."""

from dataclasses import dataclass, replace
from typing import Any

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.schedules import Ramp
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.value_penalty import PenaltyCarry, ValuePenalty, penalised_gradient
from bilevel_cli.solvers.aggregated import Aggregated


@dataclass(frozen=True)
class Pbgd(ValuePenalty):
    """V-PBGD: descent on F + gamma (f - min f) (Shen & Chen, 2023, arXiv:2302.05185).

    The inner loop takes z towards min f; then y takes `penalised_steps` steps on f + F / gamma,
    and lambda one along

        d_lambda [ F(y, lambda) + gamma (f(y, lambda) - f(z, lambda)) ],    y, z constant.

    At converged y and z it misses the hypergradient by O(1 / gamma) where f satisfies the
    Polyak-Lojasiewicz inequality; f need not be convex, nor its minimiser unique. The released
    code divides both steps by max(gamma, 1). Here that holds for y only, so that its step size
    keeps its meaning as gamma grows. The estimate stays on the scale of the hypergradient, as that
    of every method.

    The start is not differentiated: its outer parameters are refused. Reports the gap
    f(y) - f(z).

    Cost: K + penalised_steps + 2 inner gradients, and no second derivative.

    Args:
        gamma: The multiplier, as a function of the outer step.
        penalised_steps: Steps of y in one outer step, >= 1, on the last of the inner minibatches.
            Where these are fewer, they are gone through again. The paper takes one step.
    """

    gamma: Ramp
    penalised_steps: int

    def __post_init__(self) -> None:
        if self.penalised_steps < 1:
            raise ValueError(
                f"Pbgd needs penalised_steps >= 1, got penalised_steps={self.penalised_steps}. "
                "Set method.penalised_steps, e.g. 1."
            )

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: PenaltyCarry
    ) -> Estimate:
        gamma = self.gamma(carry["count"])
        z = loop.run(loop.begin(outer, data, carry["value"]), outer, data)
        penalised = replace(loop, solver=Aggregated(loop.solver, 1.0, 1 / gamma))
        y = penalised.begin(outer, data, carry["inner"])
        for t in range(-self.penalised_steps, 0):
            y = penalised.step(y, outer, data, t % data.num_steps)
        grad, loss, gap = penalised_gradient(
            loop, outer, data, y["inner"], z["inner"], lambda gap: gamma * gap
        )
        following: PenaltyCarry = {"inner": y, "value": z, "count": carry["count"] + 1}
        return Estimate(grad, loss, following, {"inner_gap": gap, "multiplier": gamma})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + self.penalised_steps + 2, 0)

    def claim(self) -> Claim:
        """The bias is O(1 / gamma): at a constant one, ten times as large, a tenth."""
        # With more steps of y, so that repeating soon converges.
        at = replace(self, penalised_steps=100)
        return Claim(
            "the hypergradient, but for O(1/gamma)",
            references.solution,
            kind="rate",
            repeats=50,
            base=replace(at, gamma=Ramp(100.0, 100.0, 0)),
            variant=replace(at, gamma=Ramp(1000.0, 1000.0, 0)),
            ratio=(0.07, 0.14),
        )

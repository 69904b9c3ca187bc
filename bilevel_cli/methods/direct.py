"""The hypergradient of no inner steps at all."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import autodiff, references
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Direct(Hypergradient[Carry]):
    """The derivative of F(z_0(lambda), lambda), at the start of the inner loop.

    Distillation by matching descends it (gradient matching, Zhao et al., 2021, arXiv:2006.05929;
    distribution matching, Zhao & Bilen, 2023, arXiv:2110.04181). There the outer loss compares
    learned and real examples by a network z_0, and the inner loop only makes the next network.
    `start=pool` or `start=warm` pass it on; `start=cold` takes a fresh one at each outer step.

    With `inner_steps=1 start=warm` it is first-order DARTS (Liu et al., 2019, arXiv:1806.09055).

    The loss reported is F at z_0.

    Cost: K inner gradients, and no second derivative of f.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        previous = loop.fresh(outer, data)
        part = autodiff.grad(lambda outer: _loss(loop, outer, data, previous))(outer)
        if not any(bool(value.any()) for value in part.values()):
            raise ValueError(
                "Direct needs an outer loss that contains the outer parameters, got one that sees "
                "them through the inner problem alone. Use method=reverse or method=cg."
            )

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        grad, loss = autodiff.grad_and_value(
            lambda outer: _loss(loop, outer, data, carry["inner"])
        )(outer)
        state = loop.begin(outer, data, carry["inner"])
        return Estimate(grad, loss, {"inner": loop.run(state, outer, data)}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps, 0)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            return references.differenced(
                lambda outer: _loss(trial.loop, outer, trial.data, trial.carry["inner"]),
                trial.outer,
            )

        return Claim("dF(z_0)/dlambda", reference)


def _loss(loop: InnerLoop, outer: Params, data: StepData, previous: SolverState) -> Tensor:
    inner = loop.begin(outer, data, previous)["inner"]
    return loop.problem.outer_loss(inner, outer, data.outer)

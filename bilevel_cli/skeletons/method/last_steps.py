"""The hypergradient through the last inner steps alone."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli import (
    Carry,
    Claim,
    Cost,
    Estimate,
    Hypergradient,
    InnerLoop,
    Params,
    SolverState,
    StepData,
    Trial,
    autodiff,
    references,
    requirements,
)


@dataclass(frozen=True)
class LastSteps(Hypergradient[Carry]):
    """The derivative of F(z_K(lambda), lambda), with all but the last inner steps constant.

    Your formula, your paper, what it assumes and what it costs stand here.

    Args:
        window: Number of inner steps to differentiate, >= 1.
    """

    window: int

    def __post_init__(self) -> None:
        # Settings are checked here, before any work.
        if self.window < 1:
            raise ValueError(f"LastSteps needs window >= 1, got {self.window}. Set method.window.")

    def init(self, outer: Params, state: SolverState) -> Carry:
        # What the method remembers between outer steps. "inner" alone is enough for most.
        return {"inner": state}

    # What the method asks of a problem. A run that lacks it is refused before any work.
    requires = (requirements.losses_depend_on_outer, requirements.start_is_constant)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        # Your mathematics goes here. Three rules: derivatives come from autodiff, no argument is
        # changed, and no tensor is asked for its value (no `.item()`, no `if tensor > 0`).
        first = max(0, data.num_steps - self.window)
        state = loop.begin(outer, data, carry["inner"])
        state = loop.run(state, outer, data, last=first)  # constant: nobody differentiates it

        def end(outer: Params) -> tuple[Tensor, SolverState]:
            last = loop.run(state, outer, data, first)
            return loop.problem.outer_loss(last["inner"], outer, data.outer), last

        grad, (loss, last) = autodiff.grad_and_value(end, has_aux=True)(outer)
        return Estimate(grad, loss, {"inner": last}, {})  # {}: more columns for train.csv

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        # Gradients of the inner loss, and products with its second derivatives.
        return Cost(inner_grads=num_steps, hvps=min(self.window, num_steps))

    def claim(self) -> Claim:
        # What the estimate is, by a computation that shares no code with it. bilevel-check
        # compares the two. Without this function the claim is the derivative of F(z_K).
        def reference(trial: Trial) -> Params:
            first = max(0, trial.data.num_steps - self.window)
            before = references.state_after(trial, first)

            def loss(outer: Params) -> Tensor:
                state = trial.loop.run(before, outer, trial.data, first)
                return trial.loop.problem.outer_loss(state["inner"], outer, trial.data.outer)

            return references.differenced(loss, trial.outer)

        return Claim(f"dF(z_K)/dlambda through the last {self.window} steps", reference)

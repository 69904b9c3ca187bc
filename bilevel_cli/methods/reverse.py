"""Reverse-mode differentiation of the inner loop."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import start_is_constant
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.unroll import Steps, inner_grads


@dataclass(frozen=True)
class Reverse(Hypergradient[Carry]):
    """Backpropagation through the inner steps (Domke, 2012; Franceschi et al., 2017).

    Exact for F(z_K(lambda), lambda) when `window` is None. With a window, the steps before it
    and the start are taken as constants (truncated backpropagation, Shaban et al., 2019,
    arXiv:1810.10667).

    Memory: the graphs of `segment` steps, and a solver state for each other segment, whose steps
    are run again on the way back. Where `segment` is None, they are as many as the memory budget of
    the device holds: all of them, or the last ones, at the price of a second inner loop; about
    2 sqrt(K) states where those of all steps do not fit either, at the price of a third. The
    hypergradient is the same bit for bit on a CPU.

    Args:
        window: Inner steps to differentiate, counted from the last. None for all.
        segment: Inner steps to hold in memory at once. None for what the memory budget holds.
    """

    window: int | None
    segment: int | None

    def __post_init__(self) -> None:
        for name, steps in (("window", self.window), ("segment", self.segment)):
            if steps is not None and steps < 1:
                raise ValueError(
                    f"Reverse needs {name} >= 1 inner steps, got {name}={steps}. "
                    f"Use {name}=null for the whole inner loop."
                )

    def holds(self, sizes: Sizes) -> Parts:
        steps = self._steps(sizes.steps)
        if self.segment is not None and self.segment < steps:
            stored = -(-steps // self.segment) - 1
            graphs = f"the graphs of {self.segment} inner steps"
            return (
                Part(graphs, self.segment * sizes.graph, ("method.segment",)),
                Part(
                    f"the states before {stored} segments", stored * sizes.state, ("inner_steps",)
                ),
            )
        if steps == 1:  # as every method
            return ()
        size = "inner_steps" if steps == sizes.steps else "method.window"
        less, within = ("method.segment=1", size), self.segment is None
        return (Part(f"the graphs of {steps} inner steps", steps * sizes.graph, less, within),)

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        if self._steps(data.num_steps) < data.num_steps:  # the window does not reach the start
            start_is_constant(f"Reverse with window={self.window}", loop, outer, data)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        first = data.num_steps - self._steps(data.num_steps)
        steps = Steps(loop, outer, data)
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data, last=first)
        steps.taken += first
        loss, state, slopes = steps.backward(state, first, data.num_steps, self.segment)
        # Unless the start belongs to the window, it is a constant, as are the steps before.
        grad = slopes[1] if first else steps.to_start(carry["inner"], slopes)
        counts = steps.metrics() if self.segment is None else {}  # which no setting tells
        return Estimate(grad, loss, {"inner": state}, counts)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        steps = self._steps(num_steps)
        if self.segment is not None:
            return Cost(num_steps + max(0, steps - self.segment), steps)
        return Cost(inner_grads(metrics, num_steps), steps)

    def claim(self) -> Claim:
        window = self.window
        if window is None:
            return super().claim()

        def reference(trial: Trial) -> Params:
            loop, data = trial.loop, trial.data
            first = data.num_steps - window
            if first <= 0:  # the start belongs to the window
                return references.unrolled(trial)
            before = references.state_after(trial, first)

            def loss(outer: Params) -> Tensor:
                state = loop.run(before, outer, data, first)
                return loop.problem.outer_loss(state["inner"], outer, data.outer)

            return references.differenced(loss, trial.outer)

        return Claim(f"dF(z_K)/dlambda, with z_{{K-{window}}} fixed", reference)

    def _steps(self, num_steps: int) -> int:
        """The steps to differentiate."""
        return num_steps if self.window is None else min(self.window, num_steps)

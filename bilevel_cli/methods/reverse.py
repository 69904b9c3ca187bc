"""Reverse-mode differentiation of the inner loop."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bilevel_cli import autodiff, claims, trees
from bilevel_cli.claims import Claim, Trial
from bilevel_cli.loop import InnerLoop
from bilevel_cli.methods.base import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.problem import StepData
from bilevel_cli.solvers.base import SolverState
from bilevel_cli.trees import Params


@dataclass(frozen=True)
class Reverse(Hypergradient[Carry]):
    """Backpropagation through the inner steps (Domke, 2012; Franceschi et al., 2017).

    Exact for F(z_K(lambda), lambda) when `window` is None. With a window, the steps before it
    and the start are taken as constants (truncated backpropagation, Shaban et al., 2019,
    arXiv:1810.10667).

    Memory: one graph of `segment` steps, plus one solver state for each other segment; the
    graphs of the other segments are rebuilt on the way back, at the cost of a second forward.

    Args:
        window: Inner steps to differentiate, counted from the last. None for all.
        segment: Inner steps to hold in memory at once. None for all.
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

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        cuts = self._cuts(num_steps)
        # Every segment but the last is run again on the way back.
        return Cost(num_steps + cuts[-2] - cuts[0], num_steps - cuts[0])

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        cuts = self._cuts(data.num_steps)

        def enter(outer: Params) -> SolverState:
            return loop.run(loop.begin(outer, data, carry["inner"]), outer, data, 0, cuts[0])

        entries = [enter(outer)]
        for start, stop in pairwise(cuts[:-1]):
            entries.append(loop.run(entries[-1], outer, data, start, stop))

        def finish(state: SolverState, outer: Params) -> tuple[Tensor, SolverState]:
            state = loop.run(state, outer, data, cuts[-2])
            return loop.problem.outer_loss(state["inner"], outer, data.outer), state

        loss, pullback, state = autodiff.vjp(finish, entries.pop(), outer, has_aux=True)
        cotangent, grad = pullback(torch.ones_like(loss))
        for start, stop in reversed(list(pairwise(cuts[:-1]))):

            def replay(
                state: SolverState, outer: Params, start: int = start, stop: int = stop
            ) -> SolverState:
                return loop.run(state, outer, data, start, stop)

            _, pullback = autodiff.vjp(replay, entries.pop(), outer)
            cotangent, part = pullback(cotangent)
            grad = trees.axpy(1.0, part, grad)
        if cuts[0] == 0:  # the start belongs to the window
            _, pullback = autodiff.vjp(enter, outer)
            grad = trees.axpy(1.0, pullback(cotangent)[0], grad)
        return Estimate(grad, loss, {"inner": state}, {})

    def claim(self) -> Claim:
        window = self.window
        if window is None:
            return super().claim()

        def reference(trial: Trial) -> Params:
            loop, data = trial.loop, trial.data
            first = data.num_steps - window
            if first <= 0:  # the start belongs to the window
                return claims.unrolled(trial)
            before = claims.state_after(trial, first)

            def loss(outer: Params) -> Tensor:
                state = loop.run(before, outer, data, first)
                return loop.problem.outer_loss(state["inner"], outer, data.outer)

            return claims.differenced(loss, trial.outer)

        return Claim(f"dF(z_K)/dlambda, with z_{{K-{window}}} fixed", reference)

    def _cuts(self, num_steps: int) -> list[int]:
        """Where the differentiated segments begin, and the end of the last."""
        first = 0 if self.window is None else max(0, num_steps - self.window)
        return [*range(first, num_steps, self.segment or num_steps), num_steps]

"""Recursive momentum: hypergradients on minibatches whose noise fades as a run goes on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.recursion import (
    Pair,
    Samples,
    check_weight,
    gradients,
    old_weight,
    point,
    recursive_pair,
)
from bilevel_cli.methods.parts.series import Series, series_doubt


class MomentumCarry(Carry):
    previous: Pair
    direction: Pair
    count: Tensor


@dataclass(frozen=True)
class RecursiveMomentum(Hypergradient[MomentumCarry]):
    """Single loop with recursive momentum on the inner gradient and on the hypergradient.

    From one (z, lambda), it takes one step of the inner solver along m_z, and returns m_x:

        m_z <- g(z, lambda) + (1 - momentum(k)) * (m_z - g(z_previous, lambda_previous)),
        m_x <- h(z, lambda) + (1 - momentum(k)) * (m_x - h(z_previous, lambda_previous)),

    where both g = d_z f, and both h = d_lambda F - (d_lambda d_z f)^T v with v = series d_z F, are
    taken on the same minibatches; the first m are g and h themselves. With the whole series, MRBO
    (Yang et al., 2021, arXiv:2106.04692); with one random term, SUSTAIN (Khanduri et al., 2021,
    arXiv:2102.07367). Assumes a strongly convex inner loss.

    Each product with H has an inner minibatch of its own; g and the cross derivative share one.
    With more than one inner step, the first K - 1 are ordinary steps of the solver. The last step
    follows one given direction, so a solver that asks for gradients elsewhere (Nesterov), or for
    those of F too, does not take its own step there.

    Cost: K - 1 + 2 terms inner gradients, 2 (terms - 1) products with H and two cross products.

    Args:
        series: The Neumann series.
        momentum: Weight of the new gradient as a function of the outer step k, in (0, 1].
    """

    series: Series
    momentum: PowerLaw

    def __post_init__(self) -> None:
        check_weight("RecursiveMomentum", self.momentum)

    remembers = True

    @property
    def extra_batches(self) -> int:
        return self.series.products

    def init(self, outer: Params, state: SolverState) -> MomentumCarry:
        inner = state["inner"]
        return {
            "inner": state,
            "previous": point(inner, outer),
            "direction": {"inner": trees.zeros_like(inner), "outer": trees.zeros_like(outer)},
            "count": counter(inner, 0.0),
        }

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return self.series.draw(generator)

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return series_doubt(row)

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: MomentumCarry
    ) -> Estimate:
        state = loop.begin(outer, data, carry["inner"])
        state = loop.run(state, outer, data, last=data.num_steps - 1)
        here = point(state["inner"], outer)
        samples = Samples(data.inner_at(-1), data.outer, data.extra_at)
        new, residual = gradients(loop, self.series, here, samples, data.noise)
        old, _ = gradients(loop, self.series, carry["previous"], samples, data.noise)
        weight = old_weight(self.momentum, carry["count"])
        direction = recursive_pair(new, old, carry["direction"], weight)
        moved = loop.solver.step(FixedOracle(outer, direction["inner"]), state)
        return Estimate(
            grad=direction["outer"],
            loss=loop.problem.outer_loss(moved["inner"], outer, data.outer),
            carry={
                "inner": moved,
                "previous": here,
                "direction": direction,
                "count": carry["count"] + 1,
            },
            metrics={"adjoint_residual": residual},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps - 1 + 2 * self.series.terms, 2 * self.series.terms)

    def claim(self) -> Claim:
        def at_solution(trial: Trial) -> Params:
            return references.implicit_at(trial, references.minimiser(trial), self.series.matrix)

        def at_present(trial: Trial) -> Params:
            inner = references.state_after(trial, trial.data.num_steps - 1)["inner"]
            return references.implicit_at(trial, inner, self.series.matrix)

        if self.series.random:
            # m_x averages over the last 1 / momentum(k) draws, 200 of them at k = 1000.
            text = f"implicit at z*, {self.series.terms} terms"
            return Claim(text, at_solution, tolerance=0.3, kind="limit", repeats=1000)
        # Without noise the momentum cancels: what is left is exact at every step.
        text = f"implicit at z_K-1, {self.series.terms} terms"
        return Claim(text, at_present, kind="limit", repeats=20)

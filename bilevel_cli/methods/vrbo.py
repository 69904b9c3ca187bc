"""Hypergradients on minibatches, corrected at every inner step and begun anew on all examples."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.recursion import (
    Pair,
    Samples,
    check_period,
    gradients,
    point,
    recursive_pair,
    within_period,
)
from bilevel_cli.methods.parts.series import Series, series_doubt


class VrboCarry(Carry):
    previous: Pair
    direction: Pair
    count: Tensor


@dataclass(frozen=True)
class Vrbo(Hypergradient[VrboCarry]):
    """VRBO (Yang, Ji & Liang, 2021, arXiv:2106.04692): SPIDER's directions in a double loop.

    With g = d_z f and h = d_lambda F - (d_lambda d_z f)^T v, where v = series d_z F, it repeats

        m_z <- m_z + g(z, lambda) - g(z_previous, lambda_previous),
        m_x <- m_x + h(z, lambda) - h(z_previous, lambda_previous),
        z   <- one step of the inner solver along m_z,

    K times, each time on minibatches of its own; it then corrects both once more, and returns m_x.
    At every `period`-th outer step, from the first on, m_z = g and m_x = h are taken on all
    examples instead of this last correction. Where a task has no sum over all examples, a minibatch
    stands in for it. Assumes a strongly convex inner loss.

    Each product with H has an inner minibatch of its own; g and the cross derivative share one. All
    corrections of an outer step share its outer minibatch. The first correction of an outer step
    follows the step of lambda, as in the paper: the benchmark of Dagreou et al. (2022) takes it at
    the new lambda on both sides.

    Cost: 2 (K + 1) terms inner gradients, 2 (K + 1) (terms - 1) products with H and 2 (K + 1) cross
    products; on all examples, those of one pair of gradients for the last two.

    Args:
        series: The Neumann series, all of it.
        period: Outer steps from one on all examples to the next, >= 1.
    """

    series: Series
    period: int

    def __post_init__(self) -> None:
        check_period("Vrbo", self.period)
        if self.series.random:
            raise ValueError(
                f"Vrbo needs a whole series, got {type(self.series).__name__}, whose noise its "
                "corrections would add up. Use WholeSeries for method.series."
            )

    remembers = True

    def extras(self, num_steps: int) -> int:
        return (num_steps + 1) * self.series.products + 1

    @property
    def whole_every(self) -> int:
        return self.period

    def init(self, outer: Params, state: SolverState) -> VrboCarry:
        inner = state["inner"]
        return {
            "inner": state,
            "previous": point(inner, outer),
            # At the first outer step, nothing is corrected and nothing moves before the whole sums.
            "direction": {"inner": trees.zeros_like(inner), "outer": trees.zeros_like(outer)},
            "count": counter(inner, 0.0),
        }

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return series_doubt(row)

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: VrboCarry
    ) -> Estimate:
        products, direction = self.series.products, carry["direction"]
        state, before = loop.begin(outer, data, carry["inner"]), carry["previous"]

        def samples(number: int, batch: Batch) -> Samples:
            """Of the correction of this number, with the minibatch of its g."""
            return Samples(batch, data.outer, lambda i: data.extra_at(number * products + i))

        def at(point: Pair, samples: Samples) -> tuple[Pair, Tensor]:
            return gradients(loop, self.series, point, samples, data.noise)

        for t in range(data.num_steps):
            here, own = point(state["inner"], outer), samples(t, data.inner_at(t))
            direction = recursive_pair(at(here, own)[0], at(before, own)[0], direction, 1.0)
            before, state = here, loop.solver.step(FixedOracle(outer, direction["inner"]), state)
        here = point(state["inner"], outer)
        if data.whole:
            whole = data.whole["inner"]
            direction, residual = at(here, Samples(whole, data.whole["outer"], lambda _: whole))
        else:
            own = samples(data.num_steps, data.extra_at((data.num_steps + 1) * products))
            (new, residual), (old, _) = at(here, own), at(before, own)
            weight = within_period(self.period, carry["count"])
            direction = recursive_pair(new, old, direction, weight)
        return Estimate(
            grad=direction["outer"],
            loss=loop.problem.outer_loss(state["inner"], outer, data.outer),
            carry={
                "inner": state,
                "previous": here,
                "direction": direction,
                "count": carry["count"] + 1,
            },
            metrics={"adjoint_residual": residual},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        pairs = 2 * (num_steps + 1)
        return Cost(pairs * self.series.terms, pairs * self.series.terms)

    def claim(self) -> Claim:
        # Without noise the corrections cancel: what is left is exact at every step.
        text = f"implicit at z_K, {self.series.terms} terms"
        return Claim(text, references.implicit(self.series.matrix), kind="limit", repeats=20)

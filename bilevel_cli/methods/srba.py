"""SOBA with directions that are corrected from step to step, and begun anew on all examples."""

import math
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.residuals import adjoint_doubt
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.implicit import ImplicitCarry
from bilevel_cli.methods.parts.derivatives import inner_slope, outer_slope, relative_residual
from bilevel_cli.methods.parts.recursion import check_period, recursive, within_period


class Triple(TypedDict):
    """A point (z, v, lambda), or the directions in which the three move."""

    inner: Params
    adjoint: Params
    outer: Params


class SrbaCarry(ImplicitCarry):
    previous: Triple
    direction: Triple
    count: Tensor


@dataclass(frozen=True)
class Srba(Hypergradient[SrbaCarry]):
    """SRBA (Dagreou et al., 2024, arXiv:2302.08766): SOBA's step along SARAH's directions.

    At every `period`-th outer step, from the first on, the directions

        D_z = d_z f,    D_v = H v - d_z F,    D_lambda = d_lambda F - (d_lambda d_z f)^T v

    are taken at (z, v, lambda) on all examples. At the others they are corrected, on one inner and
    one outer minibatch, by how they differ from those at the point before:

        D <- D + D(z, v, lambda) - D(z_previous, v_previous, lambda_previous).

    Then z takes one step of the inner solver along D_z, v <- v - adjoint_lr * D_v, and D_lambda is
    the hypergradient. At constant step sizes the noise fades as the steps become small. Where a
    task has no sum over all examples, a minibatch stands in for it. v is not projected onto a ball,
    as the analysis has it. With more than one inner step, the first K - 1 are ordinary ones.

    Memory: two points and their directions, whatever the number of examples. Cost: K + 1 inner
    gradients and 2 products with H and the cross derivative at once; on all examples one less each.

    Args:
        adjoint_lr: Step size of the adjoint.
        period: Outer steps from one on all examples to the next, >= 1.
    """

    adjoint_lr: float
    period: int

    def __post_init__(self) -> None:
        if not 0 < self.adjoint_lr < math.inf:
            raise ValueError(
                f"Srba needs a finite adjoint_lr > 0, got adjoint_lr={self.adjoint_lr}. "
                "Set method.adjoint_lr, e.g. to the step size of the inner solver."
            )
        check_period("Srba", self.period)

    remembers = True

    @property
    def whole_every(self) -> int:
        return self.period

    def init(self, outer: Params, state: SolverState) -> SrbaCarry:
        inner = state["inner"]
        nothing = trees.zeros_like(inner)
        return {
            "inner": state,
            "adjoint": nothing,
            "previous": _point(inner, nothing, outer),
            "direction": {"inner": nothing, "adjoint": nothing, "outer": trees.zeros_like(outer)},
            "count": counter(inner, 0.0),
        }

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return adjoint_doubt(row, "method.adjoint_lr")

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: SrbaCarry
    ) -> Estimate:
        problem, before = loop.problem, carry["previous"]
        state = loop.begin(outer, data, carry["inner"])
        state = loop.run(state, outer, data, last=data.num_steps - 1)
        free = loop.free(state["inner"])
        point = _point(state["inner"], trees.masked(carry["adjoint"], free), outer)
        if data.whole:
            direction, rhs = _directions(problem, point, data.whole["inner"], data.whole["outer"])
        else:
            batches = data.inner_at(-1), data.outer
            here, rhs = _directions(problem, point, *batches)
            there, _ = _directions(problem, before, *batches)
            weight, kept = within_period(self.period, carry["count"]), carry["direction"]
            direction = {
                "inner": recursive(here["inner"], there["inner"], kept["inner"], weight),
                "adjoint": recursive(here["adjoint"], there["adjoint"], kept["adjoint"], weight),
                "outer": recursive(here["outer"], there["outer"], kept["outer"], weight),
            }
        moved = loop.solver.step(FixedOracle(outer, direction["inner"]), state)
        residual = trees.masked(direction["adjoint"], free)
        return Estimate(
            grad=direction["outer"],
            loss=problem.outer_loss(moved["inner"], outer, data.outer),
            carry={
                "inner": moved,
                "adjoint": trees.axpy(-self.adjoint_lr, residual, point["adjoint"]),
                "previous": point,
                "direction": direction,
                "count": carry["count"] + 1,
            },
            metrics={"adjoint_residual": relative_residual(residual, trees.masked(rhs, free))},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 1, 2)

    def claim(self) -> Claim:
        return Claim("dF(z*)/dlambda", references.solution, kind="limit", repeats=1000)


def _point(inner: Params, adjoint: Params, outer: Params) -> Triple:
    # The optimizer moves the outer parameters in place.
    return {"inner": inner, "adjoint": adjoint, "outer": trees.map_leaves(torch.clone, outer)}


def _directions(
    problem: Problem, point: Triple, batch: Batch, outer_batch: Batch
) -> tuple[Triple, Params]:
    """D_z, D_v and D_lambda at a point, on an inner and an outer batch; and d_z F."""
    gradient, pullback = inner_slope(problem, point["inner"], point["outer"], batch)
    product, implicit = pullback(point["adjoint"])
    rhs, direct, _ = outer_slope(problem, point["inner"], point["outer"], outer_batch)
    found: Triple = {
        "inner": gradient,
        "adjoint": trees.axpy(-1.0, rhs, product),
        "outer": trees.axpy(-1.0, implicit, direct),
    }
    return found, rhs

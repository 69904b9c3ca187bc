"""One step of inner variable and adjoint, and a hypergradient with recursive momentum."""

from dataclasses import dataclass
from typing import Any

import torch

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.residuals import adjoint_doubt
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import (
    cross_product,
    hessian_product,
    outer_slope,
    relative_residual,
)
from bilevel_cli.methods.parts.recursion import check_weight, old_weight, recursive
from bilevel_cli.methods.soba import SobaCarry


class FslaCarry(SobaCarry):
    previous_outer: Params
    direction: Params


@dataclass(frozen=True)
class Fsla(Hypergradient[FslaCarry]):
    """FSLA (Li, Gu & Huang, 2022, arXiv:2112.04660): fully single loop, with momentum.

    In this order, after the inner step(s) from z to z',

        v' = v - adjoint_lr(k) * (H v - d_z F)                        at (z', lambda),
        m' = d(z', v', lambda) + (1 - momentum(k)) * (m - d(z, v, lambda_previous)),

    where d(z, v, lambda) = d_lambda F - (d_lambda d_z f)^T v is taken twice on the same
    minibatches, and m' is the hypergradient. At the first outer step it is d itself. H and d see an
    inner minibatch each, besides those of the inner steps. Assumes a strongly convex inner loss.

    Cost: K + 3 inner gradients, one product with H and two cross products.

    Args:
        adjoint_lr: Step size of the adjoint as a function of the outer step k.
        momentum: Weight of the new direction as a function of k, in (0, 1].
    """

    adjoint_lr: PowerLaw
    momentum: PowerLaw

    def __post_init__(self) -> None:
        check_weight("Fsla", self.momentum)

    remembers = True
    extra_batches = 2

    def init(self, outer: Params, state: SolverState) -> FslaCarry:
        inner = state["inner"]
        return {
            "inner": state,
            "adjoint": trees.zeros_like(inner),
            "previous_outer": trees.map_leaves(torch.clone, outer),
            "direction": trees.zeros_like(outer),
            "count": counter(inner, 0.0),
        }

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return adjoint_doubt(row, "method.adjoint_lr.initial")

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: FslaCarry
    ) -> Estimate:
        problem, before, count = loop.problem, carry["adjoint"], carry["count"]
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        inner = state["inner"]
        rhs, direct, loss = outer_slope(problem, inner, outer, data.outer)
        product = hessian_product(problem, inner, outer, data.extra_at(0), before)
        free = loop.free(inner)
        residual = trees.masked(trees.axpy(-1.0, rhs, product), free)
        # The adjoint before belongs to the point before. What is free here masks the new one.
        adjoint = trees.masked(trees.axpy(-self.adjoint_lr(count), residual, before), free)

        def implicit(inner: Params, outer: Params, adjoint: Params) -> Params:
            return cross_product(problem, inner, outer, data.extra_at(1), adjoint)

        there, previous = carry["inner"]["inner"], carry["previous_outer"]
        _, direct_there, _ = outer_slope(problem, there, previous, data.outer)
        direction = recursive(
            trees.axpy(-1.0, implicit(inner, outer, adjoint), direct),
            trees.axpy(-1.0, implicit(there, previous, before), direct_there),
            carry["direction"],
            old_weight(self.momentum, count),
        )
        return Estimate(
            grad=direction,
            loss=loss,
            carry={
                "inner": state,
                "adjoint": adjoint,
                # The optimizer moves the outer parameters in place.
                "previous_outer": trees.map_leaves(torch.clone, outer),
                "direction": direction,
                "count": count + 1,
            },
            metrics={"adjoint_residual": relative_residual(residual, trees.masked(rhs, free))},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 3, 3)

    def claim(self) -> Claim:
        return Claim("dF(z*)/dlambda", references.solution, 1e-3, kind="limit", repeats=3000)

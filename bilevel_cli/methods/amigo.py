"""Implicit differentiation with an adjoint that begins warm and moves by SGD."""

import math
from dataclasses import dataclass
from typing import Any

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.residuals import adjoint_doubt
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.implicit import ImplicitCarry
from bilevel_cli.methods.parts.derivatives import (
    cross_product,
    hessian_product,
    outer_slope,
    relative_residual,
)


@dataclass(frozen=True)
class Amigo(Hypergradient[ImplicitCarry]):
    """AmIGO (Arbel & Mairal, 2022, arXiv:2111.14580): both linear and inner solves begin warm.

    After K inner steps, from the adjoint v of the last outer step,

        v <- v - adjoint_lr * (H_i v - d_z F),    i = 1..adjoint_steps,
        dF/dlambda = d_lambda F - (d_lambda d_z f)^T v,

    where all derivatives are taken at the last inner iterate. Each H_i sees an inner minibatch of
    its own, the cross derivative one more, and the outer derivatives the outer minibatch. Assumes a
    strongly convex inner loss.

    Cost: K + adjoint_steps + 1 inner gradients, adjoint_steps + 1 products.

    Args:
        adjoint_steps: SGD steps on the adjoint, >= 1.
        adjoint_lr: Step size of these steps, > 0 and < 2 / (largest eigenvalue of H).
    """

    adjoint_steps: int
    adjoint_lr: float

    def __post_init__(self) -> None:
        if self.adjoint_steps < 1:
            raise ValueError(
                f"Amigo needs adjoint_steps >= 1, got adjoint_steps={self.adjoint_steps}. "
                "Set method.adjoint_steps."
            )
        if not 0 < self.adjoint_lr < math.inf:
            raise ValueError(
                f"Amigo needs a finite adjoint_lr > 0, got adjoint_lr={self.adjoint_lr}. "
                "Set method.adjoint_lr, e.g. to the step size of the inner solver."
            )

    remembers = True

    @property
    def extra_batches(self) -> int:
        return self.adjoint_steps + 1

    def init(self, outer: Params, state: SolverState) -> ImplicitCarry:
        return {"inner": state, "adjoint": trees.zeros_like(state["inner"])}

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return adjoint_doubt(row, "method.adjoint_lr")

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: ImplicitCarry
    ) -> Estimate:
        problem = loop.problem
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        inner = state["inner"]
        free = loop.free(inner)
        adjoint = trees.masked(carry["adjoint"], free)
        rhs, direct, loss = outer_slope(problem, inner, outer, data.outer)
        for number in range(self.adjoint_steps):
            product = hessian_product(problem, inner, outer, data.extra_at(number), adjoint)
            residual = trees.masked(trees.axpy(-1.0, rhs, product), free)
            adjoint = trees.axpy(-self.adjoint_lr, residual, adjoint)
        batch = data.extra_at(self.adjoint_steps)
        implicit = cross_product(problem, inner, outer, batch, adjoint)
        return Estimate(
            grad=trees.axpy(-1.0, implicit, direct),
            loss=loss,
            carry={"inner": state, "adjoint": adjoint},
            metrics={"adjoint_residual": relative_residual(residual, trees.masked(rhs, free))},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + self.adjoint_steps + 1, self.adjoint_steps + 1)

    def claim(self) -> Claim:
        return Claim("dF(z*)/dlambda", references.solution, kind="limit", repeats=500)

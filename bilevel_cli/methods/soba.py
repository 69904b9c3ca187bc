"""Inner variable, adjoint and outer variable moved at once, each by a stochastic gradient."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.residuals import adjoint_doubt
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.implicit import ImplicitCarry
from bilevel_cli.methods.parts.derivatives import inner_slope, outer_slope, relative_residual


class SobaCarry(ImplicitCarry):
    count: Tensor


@dataclass(frozen=True)
class Soba(Hypergradient[SobaCarry]):
    """SOBA (Dagreou et al., 2022, arXiv:2201.13409): a single loop that, from one (z, v, lambda),
    takes

        z <- one step of the inner solver along d_z f,
        v <- v - adjoint_lr(k) * (H v - d_z F),
        dF/dlambda = d_lambda F - (d_lambda d_z f)^T v.

    f is seen on one inner minibatch, and F on one outer minibatch. With more than one inner step,
    the first K - 1 are ordinary steps of the solver. Assumes a strongly convex inner loss. The last
    step follows one given direction, so a solver that asks for gradients elsewhere (Nesterov), or
    for those of F too, does not take its own step there.

    Cost: K inner gradients, and one product with H and the cross derivative at once.

    Args:
        adjoint_lr: Step size of the adjoint as a function of the outer step k.
    """

    adjoint_lr: PowerLaw

    remembers = True

    def init(self, outer: Params, state: SolverState) -> SobaCarry:
        inner = state["inner"]
        return {"inner": state, "adjoint": trees.zeros_like(inner), "count": counter(inner, 0.0)}

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return adjoint_doubt(row, "method.adjoint_lr.initial")

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: SobaCarry
    ) -> Estimate:
        problem, count = loop.problem, carry["count"]
        state = loop.begin(outer, data, carry["inner"])
        state = loop.run(state, outer, data, last=data.num_steps - 1)
        inner = state["inner"]
        free = loop.free(inner)
        adjoint = trees.masked(carry["adjoint"], free)
        gradient, pullback = inner_slope(problem, inner, outer, data.inner_at(-1))
        product, implicit = pullback(adjoint)
        rhs, direct, _ = outer_slope(problem, inner, outer, data.outer)
        state = loop.solver.step(FixedOracle(outer, gradient), state)
        residual = trees.masked(trees.axpy(-1.0, rhs, product), free)
        return Estimate(
            grad=trees.axpy(-1.0, implicit, direct),
            loss=problem.outer_loss(state["inner"], outer, data.outer),
            carry={
                "inner": state,
                "adjoint": trees.axpy(-self.adjoint_lr(count), residual, adjoint),
                "count": count + 1,
            },
            metrics={"adjoint_residual": relative_residual(residual, trees.masked(rhs, free))},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps, 1)

    def claim(self) -> Claim:
        return Claim("dF(z*)/dlambda", references.solution, 1e-3, kind="limit", repeats=3000)

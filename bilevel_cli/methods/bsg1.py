"""Implicit differentiation with outer products of gradients for second derivatives."""

from dataclasses import dataclass
from typing import Any

import torch

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_MINIMISER
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import outer_slope


@dataclass(frozen=True)
class Bsg1(Hypergradient[Carry]):
    """BSG-1 (Giovannelli, Kent & Vicente, 2021, arXiv:2110.00604): rank-one second derivatives.

    With d_z f d_z f^T for the Hessian of f, and d_z f d_lambda f^T for its cross derivative,

        dF/dlambda = d_lambda F - (d_z F . d_z f / |d_z f|^2) d_lambda f,    all at z_K,

    on the last inner minibatch. The outer product is an empirical Fisher matrix of one sample. The
    estimate is a descent direction under assumptions that fail as d_z f goes to zero. Where
    d_z f = 0, the second term is left out.

    Cost: K + 1 inner gradients, and no second derivative.
    """

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = AT_A_MINIMISER

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        problem = loop.problem
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        direct_inner, direct, loss = outer_slope(problem, state["inner"], outer, data.outer)
        slope, cross = autodiff.grad(problem.inner_loss, (0, 1))(
            state["inner"], outer, data.inner_at(-1)
        )
        slope = trees.masked(slope, loop.free(state["inner"]))
        # By the unit vector, since squares of small gradients underflow.
        length = trees.norm(slope)
        safe = torch.where(length > 0, length, 1.0)
        ratio = trees.dot(direct_inner, trees.scale(1 / safe, slope)) / safe
        return Estimate(trees.axpy(-ratio, cross, direct), loss, {"inner": state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 1, 0)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            problem, batch = trial.loop.problem, trial.data.inner_at(-1)
            outer_slopes, inner_slopes = (
                [trees.ravel(part) for part in autodiff.grad(loss, (0, 1))(trial.last, *rest)]
                for loss, rest in (
                    (problem.outer_loss, (trial.outer, trial.data.outer)),
                    (problem.inner_loss, (trial.outer, batch)),
                )
            )
            (direct_inner, _), (direct, unravel) = outer_slopes
            (slope, _), (cross, _) = inner_slopes
            free = trial.loop.free(trial.last)
            if free is not None:
                slope = slope * trees.ravel(free)[0]
            hessian = torch.linalg.pinv(torch.outer(slope, slope), hermitian=True)
            return unravel(direct - torch.outer(cross, slope) @ hessian @ direct_inner)

        return Claim("the implicit hypergradient at z_K, with outer products for d^2 f", reference)

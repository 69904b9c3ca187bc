"""One differentiated inner step, without second derivatives."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import (
    an_inner_loss,
    losses_depend_on_outer,
    one_gradient_a_step,
    start_is_constant,
)
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import outer_slope
from bilevel_cli.methods.parts.finite_difference import check_radius, cross_product, last_step


@dataclass(frozen=True)
class Darts(Hypergradient[Carry]):
    """The derivative through the last inner step, its second-order part by a finite difference.

    With z' = z - lr * d_z f(z, lambda) and v = d_z F(z', lambda),

        dF/dlambda = d_lambda F - lr * [d_lambda f(z + eps v) - d_lambda f(z - eps v)] / (2 eps),

    eps = radius / |v|. DARTS (Liu, Simonyan & Yang, 2019, arXiv:1806.09055) takes one inner step
    from the current weights: `inner_steps=1 start=warm`. With more inner steps, all but the last
    count as constants, as does the start. With other solvers, lr is the derivative of the step in
    the gradient that it takes. The result is that of `Reverse` with a window of one step, but for
    an error of order radius^2.

    Cost: K inner gradients, and two gradients of the inner loss in the outer parameters.

    Args:
        radius: Distance by which the inner parameters are moved to either side, > 0.
    """

    radius: float

    def __post_init__(self) -> None:
        check_radius("Darts", self.radius)

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = (losses_depend_on_outer, start_is_constant, an_inner_loss, one_gradient_a_step)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        problem, last = loop.problem, last_step(loop, outer, data, carry["inner"])
        direct_inner, direct, loss = outer_slope(problem, last.state["inner"], outer, data.outer)
        direction, through_solver = last.pullback(direct_inner, (0, 1))
        batch = data.inner_at(-1)
        cross = cross_product(problem, last.asked, outer, batch, direction, self.radius)
        grad = trees.axpy(1.0, trees.axpy(1.0, cross, through_solver), direct)
        return Estimate(grad, loss, {"inner": last.state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 2, 0)

    def claim(self) -> Claim:
        def reference(trial: Trial) -> Params:
            first = trial.data.num_steps - 1
            before = references.state_after(trial, first)

            def loss(outer: Params) -> Tensor:
                state = trial.loop.run(before, outer, trial.data, first)
                return trial.loop.problem.outer_loss(state["inner"], outer, trial.data.outer)

            return references.differenced(loss, trial.outer)

        # The finite difference is exact on quadratics, and off by radius^2 / 6 third derivatives.
        return Claim("dF(z_K)/dlambda, with z_{K-1} fixed", reference, tolerance=1e-4)

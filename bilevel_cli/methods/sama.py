"""Implicit differentiation with the step of the inner solver in place of the inverse Hessian."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import MinibatchOracle
from bilevel_cli.core.problem import Batch, ProblemWrapper, StepData
from bilevel_cli.core.requirements import AT_A_MINIMISER
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import outer_slope
from bilevel_cli.methods.parts.finite_difference import check_radius, cross_product, last_step


@dataclass(frozen=True)
class Sama(Hypergradient[Carry]):
    """Scalable meta-learning by algorithm adaptation (Choe et al., 2023, arXiv:2310.05674).

    The inverse Hessian is replaced by D, what the last step of the solver makes of a gradient:

        dF/dlambda = d_lambda F - (d_lambda d_z f)^T D^T d_z F,    D = -(d z_K / d gradient),

    both at z_K. So D is the step size for gradient descent, and the adaptive step of Adam for Adam.
    The cross derivative is a central difference along v = D^T d_z F, as in DARTS. All of it uses
    the last inner minibatch, and the gradient of the last step.

    Cost: K inner gradients, and two gradients of the inner loss in the outer parameters.

    Args:
        radius: Distance by which the inner parameters are moved to either side, > 0.
    """

    radius: float

    def __post_init__(self) -> None:
        check_radius("Sama", self.radius)

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = AT_A_MINIMISER

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        problem, last = loop.problem, last_step(loop, outer, data, carry["inner"])
        inner = last.state["inner"]
        direct_inner, direct, loss = outer_slope(problem, inner, outer, data.outer)
        (direction,) = last.pullback(direct_inner, (0,))
        cross = cross_product(problem, inner, outer, data.inner_at(-1), direction, self.radius)
        return Estimate(trees.axpy(1.0, cross, direct), loss, {"inner": last.state}, {})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 2, 0)

    def claim(self) -> Claim:
        # The finite difference is exact on quadratics, and off by radius^2 / 6 third derivatives.
        text = "d_lambda F - (d_lambda d_z f)' D' d_z F at z_K, with D the step of the solver"
        return Claim(text, _reference, tolerance=1e-4)


def _reference(trial: Trial) -> Params:
    loop, data = trial.loop, trial.data
    problem, batch = loop.problem, data.inner_at(-1)
    before = references.state_after(trial, data.num_steps - 1)
    direct_inner, direct = autodiff.grad(problem.outer_loss, (0, 1))(
        trial.last, trial.outer, data.outer
    )

    # A linear term in the inner loss moves every gradient by the same vector, wherever it is taken.
    def response(tilt: Params) -> Tensor:
        oracle = MinibatchOracle(_Tilted(problem, tilt), trial.outer, batch, data.outer)
        return trees.dot(loop.solver.step(oracle, before)["inner"], direct_inner)

    direction = references.differenced(response, trees.zeros_like(trial.last))

    def slope(outer: Params) -> Tensor:
        return trees.dot(autodiff.grad(problem.inner_loss)(trial.last, outer, batch), direction)

    return trees.axpy(1.0, references.differenced(slope, trial.outer), direct)


@dataclass(frozen=True)
class _Tilted(ProblemWrapper):
    """f + <tilt, z>, and F."""

    tilt: Params

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.base.inner_loss(inner, outer, batch) + trees.dot(self.tilt, inner)

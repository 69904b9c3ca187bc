"""The explicit derivative behind the inner loop, without the response of the inner parameters."""

import pytest
import torch
from claims import Logistic, held_to_its_claim
from exact import OUTER, PLANE, UNROLLED, assert_equal
from problems import Plane, Quadratic, estimate
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.explicit import Explicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm


@pytest.mark.parametrize(("steps", "unrolled"), UNROLLED.items())
def test_explicit_is_the_partial_derivative_whatever_the_inner_steps(
    steps: int, unrolled: tuple[float, float]
) -> None:
    found = estimate(Explicit(), PLANE, PLANE.data(steps), OUTER)
    whole = estimate(Reverse(None, None), PLANE, PLANE.data(steps), OUTER)
    assert_equal(found.grad["x"], (0.5, 1.0))  # rho x
    assert_equal(whole.grad["x"], unrolled)
    # The loss and the inner parameters are those behind the loop all the same.
    assert_equal(found.loss, float(whole.loss))
    assert_equal(found.carry["inner"]["inner"]["y"], tuple(whole.carry["inner"]["inner"]["y"]))


class SameLoss(Plane):
    """F = f: the upper level wants what the lower level does."""

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.inner_loss(inner, outer, batch)


def test_explicit_is_the_whole_hypergradient_where_the_outer_gradient_in_z_vanishes() -> None:
    # The envelope theorem: f(z*(x), x) = -x'B'A^-1 B x / 2. GD at 0.2 contracts by 0.73 at most.
    found = estimate(Explicit(), SameLoss(), PLANE.data(100), OUTER, solver=GradientDescent(lr=0.2))
    best = torch.linalg.solve(Plane.A, Plane.B @ Plane.x)
    assert_equal(found.grad["x"], tuple((-Plane.B.T @ best).tolist()))


def test_explicit_holds_its_claim_behind_a_solver_with_memory_and_a_warm_start() -> None:
    problem = Logistic()
    solver = Adam(0.1, 0.9, 0.999, 1e-8)
    held_to_its_claim(Explicit(), problem, problem.data(3), problem.outer(), solver, Warm())


def test_explicit_refuses_outer_parameters_that_the_outer_loss_does_not_contain() -> None:
    problem = Quadratic()
    loop, data = InnerLoop(problem, GradientDescent(lr=0.1), Cold()), problem.data(2)
    reason = "Explicit needs an outer loss that contains .* in which lam do not occur.*method=cg"
    with pytest.raises(ValueError, match=reason):
        Explicit().check(loop, problem.outer_init(), data)

"""Reverse mode with an implicit tail: exact at a fixed point, and reverse mode from elsewhere."""

from typing import Any

import pytest
import torch
from claims import Logistic, held_to_its_claim
from exact import implicit
from problems import Quadratic, estimate

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.methods.reverse_implicit import ReverseImplicit
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.partial import Partial
from bilevel_cli.starts.warm import Warm

EXACT = Exact(0.0, None)
CORRECTED, REVERSE = ReverseImplicit(EXACT, None), Reverse(None, None)


def at_rest(problem: Logistic) -> StepData:
    """Data whose start is the inner solution: gradient descent contracts by 0.9 a step."""
    loop, data = InnerLoop(problem, GradientDescent(1.0), Cold()), problem.data(300)
    state = loop.run(loop.fresh(problem.outer(), data), problem.outer(), data)
    return data._replace(init=state["inner"])


def cut(data: StepData, steps: int) -> StepData:
    return data._replace(inner={name: value[:steps] for name, value in data.inner.items()})


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_at_a_fixed_point_it_is_the_implicit_hypergradient_for_any_number_of_steps(
    steps: int,
) -> None:
    problem, solver = Logistic(), GradientDescent(1.0)
    data = cut(at_rest(problem), steps)

    def grad(method: Hypergradient[Any]) -> Params:
        return estimate(method, problem, data, problem.outer(), Warm(), solver).grad

    exact = grad(implicit(EXACT))
    torch.testing.assert_close(grad(CORRECTED), exact, rtol=1e-9, atol=1e-12)
    # Reverse mode alone takes the start for a constant: Neumann's series of as many terms.
    alone = grad(REVERSE)
    torch.testing.assert_close(alone, grad(implicit(Neumann(steps, 1.0))), rtol=1e-9, atol=1e-12)
    missed = trees.norm(trees.axpy(-1.0, exact, alone)) / trees.norm(exact)
    assert missed > 0.5 * 0.9**steps / 10


def test_followed_through_outer_steps_it_is_right_where_reverse_mode_is_not() -> None:
    problem = Quadratic()
    loop, data = InnerLoop(problem, GradientDescent(0.1), Warm()), problem.data(2)
    errors = {}
    for method in (CORRECTED, REVERSE):
        outer = problem.outer_init()
        carry = method.init(outer, loop.fresh(outer, data))
        for _ in range(60):
            found = method.estimate(loop, outer, data, carry)
            exact, carry = problem.hypergradient(outer), found.carry
            miss = trees.axpy(-1.0, exact, found.grad)
            errors[type(method)] = float(trees.norm(miss) / trees.norm(exact))
            outer = trees.axpy(-1e-3, exact, outer)  # slowly: the inner loop stays near
    # What is left of the first is how far z lags behind; of the second, 0.9^2 of the slow part.
    assert errors[ReverseImplicit] < 0.1 * errors[Reverse]


@pytest.mark.parametrize("start", [Cold(), Learned()], ids=["cold", "learned"])
def test_where_the_start_does_not_follow_the_last_iterate_it_is_reverse_mode(start: Start) -> None:
    problem, data = Logistic(), Logistic().data(4)
    outer = problem.outer() | {"init.w": torch.linspace(-1, 1, 4)}
    corrected, alone = (
        estimate(method, problem, data, outer, start) for method in (CORRECTED, REVERSE)
    )
    for name, value in alone.grad.items():
        assert torch.equal(corrected.grad[name], value), name


@pytest.mark.parametrize("solver", [GradientDescent(0.5), Momentum(0.5, 0.5)], ids=str)
@pytest.mark.parametrize("start", [Warm(), Partial(0.5)], ids=str)
@pytest.mark.parametrize(
    "method",
    [
        CORRECTED,
        ReverseImplicit(ConjugateGradient(2, 0.0), None),
        ReverseImplicit(Nystrom(2, 0.1), 2),
    ],
    ids=str,
)
def test_what_it_claims_is_so(
    method: ReverseImplicit, start: Start, solver: InnerSolver[Any]
) -> None:
    problem = Logistic()
    noise = method.draw(problem.outer(), torch.Generator().manual_seed(1))
    data = problem.data(3)._replace(noise=noise)
    held_to_its_claim(method, problem, data, problem.outer(), solver, start)


def test_segments_change_no_digit_and_no_segment_is_refused() -> None:
    problem, data = Logistic(), Logistic().data(7)
    whole, cut_up = (
        estimate(ReverseImplicit(EXACT, segment), problem, data, problem.outer(), Warm())
        for segment in (None, 3)
    )
    assert torch.equal(whole.grad["weights"], cut_up.grad["weights"])
    with pytest.raises(ValueError, match="ReverseImplicit needs segment >= 1"):
        ReverseImplicit(EXACT, 0)

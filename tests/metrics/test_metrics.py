"""Metrics watch a step from outside and say what another computation says."""

from typing import Any

import pytest
import torch
from problems import Quadratic, Several
from torch import Tensor
from torch.utils._pytree import tree_map

from bilevel_cli.core import episodes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.metrics.base import StepView
from bilevel_cli.metrics.hypergradient_gap import HypergradientGap
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm

FULL = Reverse(window=None, segment=None)
STEPS = 8


def view(problem: Any, method: Hypergradient[Any], loop: InnerLoop, carry: Any = None) -> StepView:
    outer, data = {"lam": torch.tensor([1.0, -0.5, 2.0])}, problem.data(STEPS)
    if carry is None:
        state: Any = loop.solver.init(data.init)
        carry = episodes.begin(method, loop, outer, data, state)
    found = episodes.outer_step(method, loop)(outer, data, carry)
    return StepView(1, loop, outer, data, carry, found)


def measured(seen: StepView, reference: Hypergradient[Any]) -> tuple[float, float]:
    found = HypergradientGap(reference).measure(seen)
    assert set(found) == {"gap_relative_error", "gap_cosine"}
    assert all(value.shape == () for value in found.values())
    return found["gap_relative_error"].item(), found["gap_cosine"].item()


@pytest.mark.parametrize("problem", [Quadratic(), Several()], ids=["one problem", "episodes"])
@pytest.mark.parametrize(
    "method",
    [
        FULL,
        Iaptt(),
        Implicit(ConjugateGradient(3, 0.0), warm_adjoint=False, curvature="hessian", clip=None),
    ],
    ids=str,
)
def test_a_method_has_no_gap_to_itself(problem: Any, method: Hypergradient[Any]) -> None:
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    error, cosine = measured(view(problem, method, loop), method)
    assert error == 0
    assert cosine == pytest.approx(1.0, abs=1e-14)


def test_exact_methods_have_no_gap_to_each_other_from_a_warm_start() -> None:
    # The reference must see the carry of the step, with the memory of the solver.
    problem = Quadratic()
    loop = InnerLoop(problem, Momentum(0.05, 0.9), Warm())
    inner = {"inner": {"z": torch.randn(6)}, "velocity": {"z": torch.randn(6)}}
    error, cosine = measured(view(problem, FULL, loop, {"inner": inner}), Forward())
    assert error < 1e-13
    assert cosine == pytest.approx(1.0, abs=1e-13)


def test_the_gap_of_truncation_is_that_of_the_formula() -> None:
    # z_K - z* = M^K (z_0 - z*), M = I - 0.1 A; and the hypergradient of a window w from z_0 = 0 is
    # 0.1 B' (I + M + ... + M^(w - 1)) (z_K - target).
    problem = Quadratic()
    loop, window = InnerLoop(problem, GradientDescent(0.1), Cold()), 3
    seen = view(problem, Reverse(window, None), loop)
    step = torch.eye(6) - 0.1 * problem.hessian
    powers = [torch.linalg.matrix_power(step, power) for power in range(STEPS + 1)]
    best = torch.linalg.solve(problem.hessian, problem.coupling @ seen.outer["lam"])
    slope = best - powers[STEPS] @ best - problem.target
    truncated, full = (
        0.1 * problem.coupling.T @ torch.stack(powers[:steps]).sum(0) @ slope
        for steps in (window, STEPS)
    )
    error, cosine = measured(seen, FULL)
    assert error == pytest.approx(((truncated - full).norm() / full.norm()).item(), rel=1e-11)
    expected = torch.nn.functional.cosine_similarity(truncated, full, dim=0).item()
    assert cosine == pytest.approx(expected, rel=1e-11)
    assert 0.1 < error < 0.9  # and so the numbers above are not trivial


def test_the_gap_over_episodes_is_that_of_the_mean_hypergradients() -> None:
    problem = Several()
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    seen = view(problem, Reverse(2, None), loop)

    def mean(method: Hypergradient[Any]) -> Tensor:
        found = []
        for episode in range(3):
            parts = [
                {name: value[episode] for name, value in part.items()} for part in seen.data[:3]
            ]
            data = StepData(parts[0], parts[1], parts[2])
            carry: Carry = {"inner": loop.fresh(seen.outer, data)}
            found.append(method.estimate(loop, seen.outer, data, carry).grad["lam"])
        return torch.stack(found).mean(0)

    truncated, full = mean(Reverse(2, None)), mean(FULL)
    error, cosine = measured(seen, FULL)
    assert error == pytest.approx(((truncated - full).norm() / full.norm()).item(), rel=1e-11)
    expected = torch.nn.functional.cosine_similarity(truncated, full, dim=0).item()
    assert cosine == pytest.approx(expected, rel=1e-11)


def test_the_gap_of_a_gradient_turned_and_scaled_is_its_geometry() -> None:
    problem = Quadratic()
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    seen = view(problem, FULL, loop)
    exact = seen.estimate.grad["lam"]
    across = torch.linalg.cross(exact, torch.tensor([1.0, 0.0, 0.0]))
    across = across * exact.norm() / across.norm()
    for turned, expected in (
        (3 * exact, (2.0, 1.0)),
        (-exact, (2.0, -1.0)),
        (across, (2**0.5, 0.0)),
        (exact + across, (1.0, 0.5**0.5)),
    ):
        changed = seen._replace(estimate=seen.estimate._replace(grad={"lam": turned}))
        assert measured(changed, FULL) == pytest.approx(expected, abs=1e-14)


def test_measuring_changes_nothing_of_the_step() -> None:
    problem = Several()
    seen = view(problem, Iaptt(), InnerLoop(problem, Momentum(0.05, 0.9), Cold()))
    parts = {"outer": seen.outer, "data": tuple(seen.data), "carry": seen.carry}
    before = tree_map(Tensor.clone, parts)
    HypergradientGap(FULL).measure(seen)
    torch.testing.assert_close(parts, before, rtol=0, atol=0)


def test_a_gradient_of_zero_has_no_direction_and_an_absolute_gap() -> None:
    problem = Quadratic()
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    assert measured(view(problem, NoHypergradient(), loop), FULL) == (1.0, 0.0)
    exact = view(problem, FULL, loop)
    error, cosine = measured(exact, NoHypergradient())
    assert error == pytest.approx(exact.estimate.grad["lam"].norm().item())
    assert cosine == 0

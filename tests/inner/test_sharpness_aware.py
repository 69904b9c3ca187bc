"""Sharpness-aware steps, against their formulas in the plane."""

from typing import Any

import pytest
import torch
from problems import Plane, Quadratic, central_difference
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.darts import Darts
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.solvers.sam import SharpnessAware
from bilevel_cli.starts.cold import Cold

GD = GradientDescent(0.1)
OUTER = {"x": Plane.x}


def run(solver: InnerSolver[Any], steps: int = 5) -> Tensor:
    loop, data = InnerLoop(Plane(), solver, Cold()), Plane().data(steps, (0.3, 1.0))
    return loop.run(loop.fresh(OUTER, data), OUTER, data)["inner"]["y"]


@pytest.mark.parametrize("base", [GD, Momentum(0.1, 0.9), Adam(0.1, 0.9, 0.99, 1e-8)], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("adaptive", [False, True])
def test_without_an_ascent_the_steps_are_those_of_the_base_bit_for_bit(
    base: InnerSolver[Any], alpha: float, adaptive: bool
) -> None:
    solver = SharpnessAware(base, 0.0, alpha, adaptive)
    assert torch.equal(run(solver), run(base))
    assert (solver.gradients, solver.no_minimiser) == (1, "")


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_step_is_that_of_the_formulas(adaptive: bool, alpha: float) -> None:
    rho, y = 0.2, torch.tensor([0.3, 1.0])
    for _ in range(5):
        old = Plane.A @ y - Plane.B @ Plane.x
        along = y**2 * old / (y.abs() * old).norm() if adaptive else old / old.norm()
        new = Plane.A @ (y + rho * along) - Plane.B @ Plane.x
        unit = new / new.norm()
        y = y - 0.1 * (new - alpha * (old - (old @ unit) * unit))
    torch.testing.assert_close(run(SharpnessAware(GD, rho, alpha, adaptive)), y, rtol=1e-13, atol=0)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_hypergradient_through_its_steps_equals_differences(
    adaptive: bool, alpha: float
) -> None:
    problem, data = Plane(), Plane().data(5, (0.3, 1.0))
    solver = SharpnessAware(Momentum(0.1, 0.5), 0.2, alpha, adaptive)
    loop = InnerLoop(problem, solver, Cold())

    def loss(outer: Params) -> Tensor:
        end = loop.run(loop.fresh(outer, data), outer, data)
        return problem.outer_loss(end["inner"], outer, {})

    found = Reverse(None, None).estimate(loop, OUTER, data, {"inner": loop.fresh(OUTER, data)})
    expected = central_difference(loss, OUTER)["x"]
    torch.testing.assert_close(found.grad["x"], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_at_a_stationary_point_it_rests_with_finite_derivatives(adaptive: bool) -> None:
    problem, solver = Quadratic(), SharpnessAware(GD, 0.2, 0.4, adaptive)
    loop, data, outer = InnerLoop(problem, solver, Cold()), problem.data(3), {"lam": torch.zeros(3)}
    found = Reverse(None, None).estimate(loop, outer, data, {"inner": loop.fresh(outer, data)})
    assert torch.equal(found.carry["inner"]["inner"]["z"], torch.zeros(6))  # from 0, where f rests
    assert found.grad["lam"].isfinite().all()


def test_methods_that_need_a_minimiser_or_one_gradient_a_step_refuse_it() -> None:
    loop, data = InnerLoop(Plane(), SharpnessAware(GD, 0.2, 0.0, False), Cold()), Plane().data(3)
    with pytest.raises(ValueError, match="one inner gradient in a step, got SharpnessAware, which"):
        Darts(0.01).check(loop, OUTER, data)
    assert "come to rest beside a minimiser" in loop.solver.no_minimiser


@pytest.mark.parametrize(("rho", "alpha"), [(-1.0, 0.0), (0.1, float("nan"))])
def test_an_unusable_setting_is_refused(rho: float, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"steps need a finite (rho|alpha) >= 0"):
        SharpnessAware(GD, rho, alpha, False)

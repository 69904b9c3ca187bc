"""A crowd in a corridor: the game it played, what exact methods say of it, what no one can see."""

import functools
from typing import Any

import pytest
import torch
from mean_field_game.mean_field_game import MeanFieldGame
from problems import estimate, seeded
from torch import Tensor

from bilevel_cli import Hypergradient, InnerSolver, Params, StepData, autodiff, check_task
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.lbfgs import Lbfgs

CPU = torch.device("cpu")


class FromTheTruth(MeanFieldGame):
    """Inner solves begin at the game as it was played, near the solution."""

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return {"z": self.played}


@functools.cache
def task() -> FromTheTruth:
    return FromTheTruth(200, CPU, torch.Generator().manual_seed(0))


METHODS: list[Hypergradient[Any]] = [
    Implicit(Exact(0.0, None), warm_adjoint=False, curvature="hessian", clip=None),
    Implicit(MinimumResidual(500, 1e-13), warm_adjoint=False, curvature="hessian", clip=None),
    Reverse(window=None, segment=None),
]


def test_the_contract_of_tasks_is_kept() -> None:
    check_task(task())


def test_the_game_as_it_was_played_is_a_minimum_and_a_constant_cost_changes_nothing() -> None:
    z = {"z": task().played}
    for constant in (0.0, 0.7):
        slope = autodiff.grad(task().inner_loss)(z, {"cost": task().truth + constant}, {})["z"]
        assert slope.abs().max() < 1e-6


def found(method: Hypergradient[Any], solver: InnerSolver[Any], steps: int) -> Tensor:
    """The hypergradient in a cost that is not the true one."""
    cost = {"cost": task().truth + 0.05 * torch.linspace(-1, 1, 16)}
    data = task().sample(steps, seeded())
    return estimate(method, task(), data, cost, solver=solver).grad["cost"]


def test_unrolled_methods_agree_wherever_the_game_stands() -> None:
    methods = (Reverse(None, None), Reverse(None, 2), Forward())
    reverse, *others = (found(method, GradientDescent(1.0), 5) for method in methods)
    for other in others:
        torch.testing.assert_close(other, reverse, rtol=1e-9, atol=1e-12)


def test_implicit_methods_agree_and_unrolling_does_the_better_the_game_is_solved() -> None:
    gaps = []
    for steps in (20, 60):
        solver = Lbfgs(1.0, 20)
        exact, minres, reverse = (found(method, solver, steps) for method in METHODS)
        assert (minres - exact).norm() < 1e-9 * exact.norm()
        gaps.append((reverse - exact).norm() / exact.norm())
    assert gaps[1] < min(0.02, gaps[0] / 3), gaps
    # No one goes to the last two cells, and so no method can tell what they cost.
    assert exact[-2:].abs().max() < 0.01 * exact.abs().max()


def test_a_count_of_no_one_is_refused() -> None:
    with pytest.raises(ValueError, match="people >= 1, got 0"):
        MeanFieldGame(0, CPU, torch.Generator())

"""What overparameterized bilevel optimization selects: by the hypergradient, and by the start."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from configs import composed
from problems import central_difference, estimate
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Hypergradient
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.runs import entry
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.examples.anti_distillation import AntiDistillation
from bilevel_cli.tasks.examples.memory_toy import MemoryToy
from reproductions.fourier import CPU, LARGEST, STEP, Fourier, equilibrium, implicit, slope

PSEUDO_INVERSE = Exact(damping=0.0, rtol=1e-10)
UNROLLED = Reverse(window=None, segment=None)


# --- hypergradients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "largest"), [(1, 2.0), (2, 1.56), (5, 1.39), (10, 1.34), (100, 1.30), (1000, 1.30)]
)
def test_terms_of_a_neumann_series_are_like_damping(terms: int, largest: float) -> None:
    step = 0.7
    values = torch.cat([torch.zeros(1), torch.logspace(-5, 0, 200)]) / step
    damped, series = (
        solver.solve(lambda v: values * v, torch.ones(201), torch.zeros(201)).solution
        for solver in (Exact(1 / (step * terms), rtol=None), Neumann(terms, step))
    )
    ends = step * torch.tensor([terms, 1.0]), step * torch.tensor([terms, terms / (terms + 1)])
    torch.testing.assert_close((series[[0, -1]], damped[[0, -1]]), ends, rtol=1e-10, atol=0)
    ratio = series / damped
    assert ratio.min() > 1 - 1e-10
    assert ratio.max() == pytest.approx(largest, abs=0.005)  # to the digits of the reference


def test_damping_is_the_response_of_a_proximal_problem() -> None:
    class Proximal(Fourier):
        def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
            drift = inner["w"] - here["w"]
            return super().inner_loss(inner, outer, batch) + 0.5 * 0.3 * (drift @ drift)

    labels = torch.randn(13)
    here = Fourier().solved(labels)
    proximal = slope(implicit(Exact(0.0, None)), Proximal(), labels, here, 1)
    damped = slope(implicit(Exact(0.3, None)), Fourier(), labels, here, 1)
    torch.testing.assert_close(proximal, damped, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("solved", [True, False], ids=["at the solution", "from a cold start"])
def test_unrolled_steps_are_terms_of_a_neumann_series(steps: int, solved: bool) -> None:
    # On a quadratic the Hessian is the same all along the way.
    task, labels = Fourier(), torch.randn(13)
    start = task.solved(labels) if solved else {"w": torch.randn(13)}
    unrolled = slope(UNROLLED, task, labels, start, steps)
    series = slope(implicit(Neumann(steps, STEP)), task, labels, start, steps)
    assert (unrolled - series).norm() < 1e-10 * series.norm()


def test_the_pseudo_inverse_is_not_the_derivative_of_a_minimum_norm_response_that_turns() -> None:
    task = MemoryToy(4, 0.0, CPU, torch.Generator().manual_seed(0))
    outer = {"angle": torch.tensor(2.0)}
    data = task.sample(1, torch.Generator())

    def found(method: Hypergradient[Any]) -> Params:
        return estimate(method, task, data, outer, Cold(), GradientDescent(1.0)).grad

    truth = central_difference(lambda at: task.retrained(at["angle"]), outer)
    torch.testing.assert_close(found(UNROLLED), truth, rtol=1e-8, atol=0)
    # At a best response a'(w - w_o) = 0, and the range of H is spanned by a: a warm start stalls.
    assert truth["angle"].abs() > 0.1
    assert found(implicit(PSEUDO_INVERSE))["angle"].abs() < 1e-12  # some thousand roundings


# --- minimum norms --------------------------------------------------------------------------------


def test_gradient_descent_tends_to_the_nearest_best_response() -> None:
    task, labels, start = Fourier(), torch.randn(13), torch.randn(13)
    outer, data = {"labels": labels}, task.sample(2000, torch.Generator())
    loop = InnerLoop(task, GradientDescent(STEP), Warm())
    for w in (start, torch.zeros(13)):
        found = loop.run({"inner": {"w": w}}, outer, data)["inner"]["w"]
        # The least eigenvalue but zero is 0.24: (1 - 0.24 / 13.2)^2000 = 1e-16.
        nearest = w + task.best_response @ (labels - task.features @ w)
        torch.testing.assert_close(found, nearest, rtol=1e-9, atol=1e-11)


def test_the_pseudo_inverse_moves_the_labels_as_little_as_possible() -> None:
    task = Fourier()
    response = task.original @ task.best_response
    for start in (torch.zeros(13), torch.randn(13)):
        nearest = start + torch.linalg.pinv(response) @ (task.targets - response @ start)
        found = equilibrium(PSEUDO_INVERSE, 1.0, task, start)
        torch.testing.assert_close(found, nearest, rtol=1e-9, atol=1e-11)


def test_the_identity_finds_the_least_inner_parameters() -> None:
    task = Fourier()
    least = torch.linalg.pinv(task.original @ task.projector) @ task.targets
    found = task.solved(equilibrium(Identity(), 0.38, task))["w"]
    torch.testing.assert_close(found, least, rtol=1e-9, atol=1e-11)


Case = tuple[LinearSolver, float, float, float]
# Solver, outer step size at which 20 steps are plenty, |u| and |w|: recomputed independently.
SERIES: list[Case] = [
    (Neumann(1, STEP), 5.0, 2.4198, 1.0767),
    (Neumann(10, STEP), 2.0, 1.7440, 1.2877),
    (Neumann(100, STEP), 1.0, 1.4671, 1.9906),
    (Neumann(1000, STEP), 1.0, 1.4628, 2.1175),
]
DAMPED: list[Case] = [
    (Exact(LARGEST, None), 7.5, 2.1780, 1.0936),
    (Exact(LARGEST / 10, None), 2.3, 1.7246, 1.2987),
    (Exact(LARGEST / 100, None), 1.2, 1.4848, 1.8323),
]
OTHERS: list[Case] = [(PSEUDO_INVERSE, 1.0, 1.4628, 2.1175), (Identity(), 0.38, 2.4198, 1.0767)]


@cache
def norms(solver: LinearSolver, lr: float) -> tuple[float, float]:
    task = Fourier()
    u = equilibrium(solver, lr, task)
    return float(u.norm()), float(task.solved(u)["w"].norm())


@pytest.mark.parametrize(("solver", "lr", "outer", "inner"), SERIES + DAMPED + OTHERS, ids=str)
def test_the_hypergradient_selects_the_labels(
    solver: LinearSolver, lr: float, outer: float, inner: float
) -> None:
    assert norms(solver, lr) == pytest.approx((outer, inner), abs=1e-3)


@pytest.mark.parametrize("case", [SERIES, DAMPED], ids=["Neumann", "damped"])
def test_a_better_inverse_means_smaller_labels_and_larger_inner_parameters(case: Any) -> None:
    for worse, better in pairwise(norms(solver, lr) for solver, lr, _, _ in case):
        assert worse[0] > better[0]
        assert worse[1] < better[1]


def test_ten_terms_select_what_a_tenth_of_the_curvature_as_damping_does() -> None:
    assert norms(*SERIES[1][:2]) == pytest.approx(norms(*DAMPED[1][:2]), rel=0.015)


@pytest.mark.parametrize(
    ("solver", "lr", "outer", "inner"),
    [
        (PSEUDO_INVERSE, 1.0, 1.0149, 1.3420),
        (Neumann(10, STEP), 1.8, 1.1893, 0.8353),
        (Exact(LARGEST / 10, None), 2.3, 1.1863, 0.8346),
        (Identity(), 0.38, 1.7405, 0.6348),
    ],
    ids=str,
)
def test_one_example_is_met_by_other_labels_with_every_hypergradient(
    solver: LinearSolver, lr: float, outer: float, inner: float
) -> None:
    task = Fourier(inputs=[0.3], targets=[1.0])
    u = equilibrium(solver, lr, task)
    assert float(u.norm()) == pytest.approx(outer, abs=1e-3)
    assert float(task.solved(u)["w"].norm()) == pytest.approx(inner, abs=1e-3)


def test_a_run_that_solves_the_inner_problem_on_the_way_ends_there_too(tmp_path: Path) -> None:
    settings = ["device=cpu", "device.dtype=float64", "outer_steps=100"]
    command = composed("task=anti_distillation", "method=pseudo_inverse", *settings)
    entry.run(command, tmp_path, {})
    final = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert final["outer_norm"] == pytest.approx(1.4628, abs=1e-3)
    assert final["inner_norm"] == pytest.approx(2.1175, abs=1e-3)
    assert final["value"] < 1e-12
    assert final["inner_distance"] < 1e-6


# --- memory ---------------------------------------------------------------------------------------


def test_a_warm_start_has_no_memory_where_only_labels_are_learned() -> None:
    task, start = Fourier(), torch.randn(13)
    loop = InnerLoop(task, GradientDescent(STEP), Warm())
    data, w = task.sample(7, torch.Generator()), start
    for labels in torch.randn(20, 13):
        w = loop.run({"inner": {"w": w}}, {"labels": labels}, data)["inner"]["w"]
    moved = w - start
    assert moved.norm() > 1
    torch.testing.assert_close(task.projector @ moved, moved, rtol=0, atol=1e-12)


def turning(seed: int, harmonics: int, noise: float) -> MemoryToy:
    """The problem of the reference, whose w_o are numpy's."""
    task = MemoryToy(harmonics, noise, CPU, torch.Generator())
    target = torch.tensor(np.random.default_rng(seed).standard_normal(2 * harmonics))
    task.target = target / target.norm()
    return task


# F of the last iterate after k angles, 2 pi frac(0.618 k): recomputed independently, to two digits.
SWEPT = {10: 0.113, 50: 4.2e-4, 100: 7.6e-7, 200: 2.4e-12}


def test_a_converged_warm_start_is_a_succession_of_projections() -> None:
    task = turning(0, 4, 0.0)
    loop, data = InnerLoop(task, GradientDescent(1.0), Warm()), task.sample(1, torch.Generator())
    w, joint = torch.zeros(8), {}
    for k in range(1, 201):
        outer = {"angle": torch.tensor(2 * math.pi * (k * (math.sqrt(5) - 1) / 2 % 1))}
        before, w = w, loop.run({"inner": {"w": w}}, outer, data)["inner"]["w"]
        a = task.direction(outer["angle"])
        torch.testing.assert_close(w, before + a * (a @ (task.target - before)))
        if k in SWEPT:
            scores = task.evaluate(loop, outer, {"w": w})
            joint[k] = float(scores["joint"])
            assert scores["retrained"] > 0.3
    assert joint == pytest.approx(SWEPT, rel=0.01)


def test_no_angle_alone_comes_near_what_they_tell_together() -> None:
    for harmonics, expected in ((2, 0.105), (4, 0.208)):
        loop = InnerLoop(turning(0, harmonics, 0.0), GradientDescent(1.0), Warm())
        best = []
        for seed in range(4):
            task = turning(seed, harmonics, 0.0)
            outer, inner = {"angle": torch.tensor(0.0)}, {"w": task.target}
            best.append(float(task.evaluate(loop, outer, inner)["best_cold"]))
        assert sum(best) / 4 == pytest.approx(expected, abs=5e-4)


def wandered(
    seed: int, harmonics: int, steps: int, start: Start, inner_lr: float = 1.0
) -> dict[str, float]:
    """The scores after outer steps of 0.3, with noise of 0.1 a step."""
    generator = torch.Generator().manual_seed(seed)
    task = turning(seed, harmonics, 1 / 3)
    loop = InnerLoop(task, GradientDescent(inner_lr), start)
    outer = task.init_outer(generator)
    carry: Carry = UNROLLED.init(outer, loop.fresh(outer, task.sample(1, generator)))
    for _ in range(steps):
        found = UNROLLED.estimate(loop, outer, task.sample(1, generator), carry)
        outer, carry = trees.axpy(-0.3, found.grad, outer), found.carry
    scores = task.evaluate(loop, outer, carry["inner"]["inner"])
    return {name: float(value) for name, value in scores.items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_warm_start_knows_what_retraining_has_forgotten(seed: int) -> None:
    found = wandered(seed, 4, 2000, Warm())
    assert found["joint"] < 0.02 < 0.1 < found["best_cold"] < found["retrained"]
    assert found["retrained"] > 20 * found["joint"]


@pytest.mark.slow
def test_full_and_partial_warm_starts_remember_and_a_cold_one_does_not() -> None:
    def mean(score: str, start: Start, inner_lr: float = 1.0) -> float:
        return sum(wandered(seed, 2, 1500, start, inner_lr)[score] for seed in range(4)) / 4

    # The reference has 0.0063, 0.0039 and 0.341, of other random walks.
    assert mean("joint", Warm()) < 0.02
    assert mean("joint", Warm(), 0.5) < 0.02
    assert mean("joint", Cold()) > 0.2
    assert mean("retrained", Warm()) > 0.2


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AntiDistillation(0, 6, [0.0], [1.0], CPU), "points >= 1, got points=0"),
        (lambda: AntiDistillation(13, 0, [0.0], [1.0], CPU), "frequencies >= 1"),
        (lambda: AntiDistillation(13, 6, [0.0, 1.0], [1.0], CPU), "got 1 for 2"),
        (lambda: AntiDistillation(13, 6, [], [], CPU), "got 0 for 0"),
        (lambda: AntiDistillation(13, 6, [math.nan], [1.0], CPU), "finite numbers"),
        (lambda: MemoryToy(0, 0.1, CPU, torch.Generator()), "harmonics >= 1, got harmonics=0"),
        (lambda: MemoryToy(2, -0.1, CPU, torch.Generator()), "noise >= 0, got noise=-0.1"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

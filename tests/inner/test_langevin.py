"""Langevin steps: their law, their random numbers, and derivatives along them."""

from typing import Any

import pandas as pd
import pytest
import torch
from configs import configured, one_in, options, small
from problems import Quadratic, Several, central_difference, seeded
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import autodiff, episodes, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.sets import Box
from bilevel_cli.core.solver import InnerSolver, Learned
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.fg2u import Fg2u
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.langevin import Langevin
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.solvers.projected import Projected
from bilevel_cli.solvers.weight_decay import WeightDecay
from bilevel_cli.starts.cold import Cold

PROBLEM = Quadratic()
OUTER = PROBLEM.outer_init()


def looped(solver: InnerSolver[Any], problem: Any = PROBLEM) -> InnerLoop:
    return InnerLoop(problem, solver, Cold())


def test_at_temperature_zero_the_steps_are_those_of_gradient_descent_bit_for_bit() -> None:
    data = PROBLEM.data(7)
    ends = []
    for solver in (Langevin(0.1, 0.0), GradientDescent(0.1)):
        loop = looped(solver)
        assert loop.drawn(OUTER, data, seeded()) is data
        ends.append(loop.run(loop.fresh(OUTER, data), OUTER, data)["inner"]["z"])
    assert torch.equal(*ends)


class Curved:
    """f = sum_i h z_i^2 / 2: as many independent chains as z has entries."""

    h, tau, lr = 2.0, 0.3, 0.1

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * self.h * inner["z"].square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["z"].sum()


def test_a_chain_comes_to_the_gaussian_of_its_step_size() -> None:
    some, count = Curved(), 40_000
    loop = looped(Langevin(some.lr, some.tau), some)
    data = StepData({"z": torch.ones(count)}, {"unused": torch.zeros(60)}, {})
    data = loop.drawn({}, data, seeded())
    z = loop.run(loop.fresh({}, data), {}, data)["inner"]["z"]
    # 0.8^60 = 2e-6 is left of the start. The variance of a recursion z -> (1 - lr h) z + noise.
    variance = some.tau / (some.h * (1 - some.lr * some.h / 2))
    assert abs(z.mean()) < 4.5 * (variance / count) ** 0.5
    assert abs(z.var() / variance - 1) < 4.5 * (2 / count) ** 0.5


def test_methods_that_differentiate_the_path_agree_with_each_other_and_with_differences() -> None:
    loop = looped(Langevin(Learned("log_lr", initial=0.1), 0.3))
    data = PROBLEM.data(8)
    outer = OUTER | loop.outer_init(data, OUTER)
    data = loop.drawn(outer, data, seeded())
    fresh = loop.fresh(outer, data)

    def loss(outer: Params) -> Tensor:
        return PROBLEM.outer_loss(loop.run(fresh, outer, data)["inner"], outer, {})

    expected = central_difference(loss, outer)
    exact = (Reverse(None, None), Reverse(8, None), Reverse(None, 3), Forward())
    for method in exact:  # whole, a window of all steps, checkpointed, and forward mode
        method.check(loop, outer, data)
        found = method.estimate(loop, outer, data, {"inner": fresh}).grad
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9)
    # (grad . v) v along signs, of which the whole gradient remains along v itself.
    along, whole = Fg2u(1), trees.ravel(expected)[0]
    noise = along.draw(outer, seeded())
    found = along.estimate(loop, outer, data._replace(noise=noise), {"inner": fresh}).grad
    signs = trees.ravel({name: value[0] for name, value in noise.items()})[0]
    slope = trees.ravel(found)[0] @ signs / len(signs)
    torch.testing.assert_close(slope, whole @ signs, rtol=1e-7, atol=1e-9)


def test_a_truncated_window_sees_the_noise_of_its_steps() -> None:
    loop, data = looped(Langevin(0.1, 0.3)), PROBLEM.data(8)
    data = loop.drawn(OUTER, data, seeded())
    before = loop.run(loop.fresh(OUTER, data), OUTER, data, last=5)

    def loss(outer: Params) -> Tensor:
        return PROBLEM.outer_loss(loop.run(before, outer, data, 5)["inner"], outer, {})

    found = Reverse(3, None).estimate(loop, OUTER, data, {"inner": loop.fresh(OUTER, data)})
    expected = central_difference(loss, OUTER)["lam"]
    torch.testing.assert_close(found.grad["lam"], expected, rtol=1e-7, atol=1e-9)


def test_each_episode_has_random_numbers_of_its_own() -> None:
    problem = Several()
    loop, data = looped(Langevin(0.1, 0.3), problem), problem.data(4)
    drawn = episodes.drawn(loop, OUTER, data, seeded()).draws["z"]
    assert drawn.shape == (3, 4, 6)
    assert len(set(drawn.flatten().tolist())) == drawn.numel()
    # All of them from the numbers of one inner problem after the other.
    torch.testing.assert_close(drawn.flatten(), torch.randn(72, generator=seeded()))
    assert episodes.drawn(looped(GradientDescent(0.1), problem), OUTER, data, seeded()) is data


def test_a_wrapper_hands_the_random_numbers_on() -> None:
    data = PROBLEM.data(3)
    inside = looped(Langevin(0.1, 0.3))
    wide = looped(Projected(WeightDecay(Langevin(0.1, 0.3), 0.0), Box(-1e9, 1e9)))
    ends = []
    for loop in (inside, wide):
        given = loop.drawn(OUTER, data, seeded())
        ends.append(loop.run(loop.fresh(OUTER, given), OUTER, given)["inner"]["z"])
        assert loop.solver.temperature == 0.3
    torch.testing.assert_close(*ends, rtol=1e-14, atol=0)
    assert not Momentum(0.1, 0.9).takes_draws
    assert Momentum(0.1, 0.9).temperature is None


def test_mapped_chains_are_those_taken_one_by_one() -> None:
    loop, data = looped(Langevin(0.1, 0.3)), PROBLEM.data(4)
    several = torch.stack([loop.drawn(OUTER, data, seeded(n)).draws["z"] for n in range(3)])

    def end(draws: Tensor) -> Tensor:
        given = data._replace(draws={"z": draws})
        return loop.run(loop.fresh(OUTER, given), OUTER, given)["inner"]["z"]

    torch.testing.assert_close(autodiff.vmap(end)(several), torch.stack([*map(end, several)]))


def test_a_step_without_random_numbers_says_how_to_draw_them() -> None:
    loop, data = looped(Langevin(0.1, 0.3)), PROBLEM.data(4)
    with pytest.raises(ValueError, match=r"data = loop\.drawn\(outer, data, generator\)"):
        loop.run(loop.fresh(OUTER, data), OUTER, data)


@pytest.mark.parametrize("tau", [-1.0, float("inf"), float("nan")])
def test_an_unusable_temperature_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="finite temperature tau >= 0"):
        Langevin(0.1, tau)


@pytest.mark.parametrize(
    "task", [one_in(8, number, task) for number, task in enumerate(options("task"))]
)
def test_every_task_is_scored_with_a_solver_that_draws(task: str, tmp_path: Any) -> None:
    """Solves that a task runs for its scores need random numbers of their own."""
    given = (f"task={task}", *small(task), "inner_steps=2", "outer_steps=1", "device=cpu")
    runner_in(configured(*given, "solver=langevin", "method=none"), tmp_path).run()
    assert len(pd.read_csv(tmp_path / "eval.csv")) == 2


@pytest.mark.parametrize("task", ["quadratic", "sinusoid"])
def test_a_run_draws_the_noise_of_a_chain_apart_from_all_else(task: str, tmp_path: Any) -> None:
    """The data of a seed are the same with a solver that draws and with one that does not."""
    inputs = []
    for solver in ("langevin", "gd"):
        given = (f"task={task}", *small(task), "inner_steps=3", "device=cpu", "method=reverse")
        state = runner_in(configured(*given, f"solver={solver}"), tmp_path / solver).state
        inputs.append([state.draw()[1] for _ in range(2)])
    for ours, theirs in zip(*inputs, strict=True):
        pairs = zip(trees.leaves(tuple(ours)[:3]), trees.leaves(tuple(theirs)[:3]), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        assert (bool(ours.draws), bool(theirs.draws)) == (True, False)
    first, second = (trees.leaves(one.draws)[0] for one in inputs[0])
    assert not torch.equal(first, second)


def test_a_run_goes_on_with_the_random_numbers_that_it_would_have_drawn(tmp_path: Any) -> None:
    given = ("device=cpu", "task=quadratic", *small("quadratic"), "solver=langevin")
    first, again, old = (
        runner_in(configured(*given, "inner_steps=3"), tmp_path / name).state for name in "abc"
    )
    first.draw()
    saved = first.saved()
    again.restore(saved)
    # A checkpoint from before there were such solvers begins their stream.
    begun = trees.leaves(old.next_inputs()[1].draws)[0]
    old.restore({name: part for name, part in saved.items() if name != "draws"})
    went_on, expected = (trees.leaves(state.draw()[1].draws)[0] for state in (again, first))
    assert torch.equal(went_on, expected)
    assert torch.equal(trees.leaves(old.draw()[1].draws)[0], begun)
    assert not torch.equal(expected, begun)

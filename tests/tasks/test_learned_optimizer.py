"""An optimizer is learned on problems of known statistics, by exact and by random estimates."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed, small
from hydra.utils import instantiate
from problems import central_difference, seeded
from runners import built
from torch import Tensor

from bilevel_cli.checks.verdict import check
from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.es import Es
from bilevel_cli.methods.es_single import EsSingle
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.pes import Pes
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.learned_rule import LearnedRule
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.examples.learned_optimizer import LearnedOptimizer

SMALL = ["task=learned_optimizer", "device.dtype=float64", *small("learned_optimizer")]
RULE = LearnedRule(0.1, [0.5, 0.9], square_decay=0.9, eps=1e-3)


def posed(*overrides: str) -> LearnedOptimizer:
    config = composed(*SMALL, *overrides)
    given = {"device": torch.device("cpu"), "generator": seeded()}
    task: LearnedOptimizer = instantiate(config.task, **given)
    return task


def some_rule(task: LearnedOptimizer) -> Params:
    outer = RULE.outer_init(task.sample(1, seeded()).init)
    return {name: value + 0.05 * torch.randn_like(value) for name, value in outer.items()}


def test_curvatures_and_targets_are_as_they_are_said_to_be() -> None:
    task = posed("task.quadratics=5", "task.networks=4", "task.points=9", "task.condition=50")
    for problems in (task.problems, task.new_problems):
        curvatures = torch.linalg.eigvalsh(problems["curvature"])
        assert curvatures.min() >= 1 / 50
        assert curvatures.max() <= 1
        torch.testing.assert_close(problems["y"].var(1), torch.ones(4))
    assert not torch.equal(task.problems["y"], task.new_problems["y"])


def test_the_noise_of_a_step_is_in_the_inner_loss_alone() -> None:
    task = posed("task.noise=0.5", "task.quadratics=400", "task.networks=300")
    data = task.sample(2, seeded())
    moved = data.inner["minimum"] - task.problems["minimum"]
    assert moved.std().item() == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(data.inner["y"][0], data.inner["y"][1])
    assert torch.equal(data.outer["y"], task.problems["y"])


def test_each_problem_has_the_gradient_of_its_own_loss() -> None:
    task = posed()
    outer: Params = {}
    data = task.sample(1, seeded())
    state = InnerLoop(task, GradientDescent(0.1), Cold()).step({"inner": data.init}, outer, data, 0)
    A, z, minimum = (
        part[1] for part in (task.problems["curvature"], data.init["z"], data.inner["minimum"][0])
    )
    torch.testing.assert_close(state["inner"]["z"][1], z - 0.1 * A @ (z - minimum))
    losses = task.losses(data.init, data.outer)
    assert losses.shape == (4,)
    torch.testing.assert_close(task.inner_loss(data.init, outer, data.outer), losses.sum())
    torch.testing.assert_close(task.outer_loss(data.init, outer, data.outer), losses.mean())


def test_reverse_forward_and_differences_agree() -> None:
    task = posed()
    outer, data = some_rule(task), task.sample(6, seeded(1))
    loop = InnerLoop(task, RULE, Cold())
    carry: Any = {"inner": loop.fresh(outer, data)}

    def last_loss(outer: Params) -> Tensor:
        state = loop.run(loop.fresh(outer, data), outer, data)
        return task.outer_loss(state["inner"], outer, data.outer)

    expected = central_difference(last_loss, outer)
    for method in (Reverse(None, None), Forward()):
        found = method.estimate(loop, outer, data, carry).grad
        gap = trees.norm(trees.axpy(-1.0, expected, found))
        assert gap < 1e-6 * trees.norm(expected)


@pytest.mark.parametrize("method", [Es(20, 0.01), Pes(20, 0.01, 3), EsSingle(20, 0.01, 3)])
def test_evolution_strategies_are_right_in_the_mean(method: Any) -> None:
    task = posed()
    found = check(method, InnerLoop(task, RULE, Cold()), task, 3, 0)
    assert found.verdict == "ok", found.reason


def test_the_windows_of_es_single_add_up_to_the_mean_loss_of_the_whole_training() -> None:
    # By perturbations whose second moments are exact, where F is near to linear in the rule.
    task, std = posed("task.noise=0"), 1e-4
    outer, windows, steps = some_rule(task), 3, 2
    vector, unravel = trees.ravel(outer)
    axes = std * len(vector) ** 0.5 * torch.eye(len(vector))
    eps = {name: torch.stack([unravel(axis)[name] for axis in axes]) for name in outer}
    loop, method = InnerLoop(task, RULE, Cold()), EsSingle(len(vector), std, windows)
    data = task.sample(steps, seeded(1))._replace(noise=eps)
    carry, total = method.init(outer, loop.fresh(outer, data)), trees.zeros_like(outer)
    for _ in range(windows):
        found = method.estimate(loop, outer, data, carry)
        total, carry = trees.axpy(1 / windows, found.grad, total), found.carry

    def mean_loss(outer: Params) -> Tensor:
        state, losses = loop.fresh(outer, data), []
        for t in range(windows * steps):
            state = loop.step(state, outer, data, t % steps)
            losses.append(task.outer_loss(state["inner"], outer, data.outer))
        return torch.stack(losses).mean()

    expected = central_difference(mean_loss, outer)
    assert trees.norm(trees.axpy(-1.0, expected, total)) < 1e-3 * trees.norm(expected)


def test_the_scores_beside_it_are_those_of_the_best_step_size_on_the_training_problems() -> None:
    task = posed("task.eval_steps=4")
    outer = some_rule(task)
    scores = task.evaluate(InnerLoop(task, RULE, Cold()), outer, {})

    def final_loss(solver: Any, new: bool) -> float:
        problems = task.new_problems if new else task.problems
        data = task.trained(problems, 4, seeded(task.eval_seed))
        loop = InnerLoop(task, solver, Cold())
        state = loop.run(loop.fresh(outer, data), outer, data)
        return float(task.outer_loss(state["inner"], outer, data.outer))

    assert float(scores["final_loss"]) == pytest.approx(final_loss(RULE, new=True))
    for name, make in (
        ("gd", GradientDescent),
        ("adam", lambda lr: Adam(lr, 0.9, 0.999, 1e-8)),
    ):
        best = min(task.step_sizes, key=lambda lr: final_loss(make(lr), new=False))
        expected = final_loss(make(best), new=True)
        assert float(scores[f"{name}_final_loss"]) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["cg", "f2sa", "darts"])
def test_methods_that_do_not_see_the_steps_are_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"act through the steps alone\. Use method=reverse"):
        built(tmp_path, *SMALL, f"method={method}")


def test_without_a_solver_that_learns_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A run needs outer parameters"):
        built(tmp_path, *SMALL, "solver=gd")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.dim=0", "needs dim >= 1"),
        ("task.condition=0.5", "condition >= 1"),
        ("task.step_sizes=[]", "step_sizes > 0"),
        ("task.noise=-1", "noise >= 0"),
    ],
)
def test_impossible_problems_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        built(tmp_path, *SMALL, override)
    with pytest.raises(UsageError, match="needs a problem to train on"):
        built(tmp_path, *SMALL, "task.quadratics=0", "task.networks=0")


@pytest.mark.slow
def test_the_learned_rule_is_better_than_the_best_constant_step_size(tmp_path: Path) -> None:
    built(tmp_path, "task=learned_optimizer", "outer_steps=40", "eval_every=40").run()
    scores = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert scores["final_loss"] < scores["gd_final_loss"]

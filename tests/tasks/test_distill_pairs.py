"""Distillation of pairs: its losses and scores by hand, and its derivatives by differences."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import composed, small
from numpy.typing import NDArray
from problems import seeded
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.data.pairs import Pairs
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.models import Mlp, Projection
from bilevel_cli.runs.runner import Runner
from bilevel_cli.tasks.distillation.pair_distillation import PairDistillation
from bilevel_cli.tasks.distillation.two_encoders import (
    build_encoders,
    contrastive_loss,
    joined,
    recall_at_1,
)

REAL = ["~task/objective", "task/networks=fresh"]  # the loss on real pairs


def build(directory: Path, *overrides: str) -> Runner:
    directory.mkdir(exist_ok=True)
    sizes = small("distill_pairs")
    if "task/networks=fresh" in overrides:
        sizes = [part for part in sizes if part != "task.networks.epochs=4"]
    words = ["task=distill_pairs", "device=cpu", "device.dtype=float64", "inner_steps=3"]
    return runner_in(composed(*words, *sizes, *overrides), directory)


def task_of(runner: Runner) -> PairDistillation:
    assert isinstance(runner.experiment.task, PairDistillation)
    return runner.experiment.task


# --- losses and scores ----------------------------------------------------------------------------


def infonce(x: NDArray[Any], y: NDArray[Any], temperature: float) -> float:
    """The mean of -log p(right) over both directions, pair by pair."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(x)):
        to_y, to_x = np.exp(y @ x[i] / temperature), np.exp(x @ y[i] / temperature)
        total -= np.log(to_y[i] / to_y.sum()) + np.log(to_x[i] / to_x.sum())
    return total / (2 * len(x))


@pytest.mark.parametrize("learned", [False, True])
def test_the_loss_is_infonce_of_normalised_embeddings_in_both_directions(learned: bool) -> None:
    x, y = torch.randn(6, 1, 2, 2), torch.randn(6, 3)
    network = build_encoders((Projection, Projection), (x, y), 5, 0.25, learned, seeded(0))
    params = network.init(seeded(0))
    assert ("log_scale" in params) == learned
    u = x.flatten(1) @ params["x.head.weight"].T + params["x.head.bias"]
    v = y @ params["y.head.weight"].T + params["y.head.bias"]
    found = contrastive_loss(network.apply(params, joined(x, y)))
    # The temperature is kept in float32, by its logarithm, until the network is built.
    assert found.item() == pytest.approx(infonce(u.numpy(), v.numpy(), 0.25), rel=1e-6)


def test_recall_counts_each_direction_among_the_candidates_of_a_gallery() -> None:
    # Similarities of x (rows) and y. x 0 finds y 1, all else its partner.
    similar = torch.tensor([[3.0, 5.0, 0.0], [1.0, 6.0, 2.0], [0.0, 4.0, 7.0]])
    first = torch.cat([torch.eye(3), similar.T], 1)
    torch.testing.assert_close(recall_at_1(first, 3), torch.tensor([2 / 3, 1.0]))
    # A second gallery in which every x finds y 1, and every y finds x 1; then a pair left over.
    second = (torch.eye(3) + 2 * torch.eye(3)[1]).repeat(1, 2)
    both = torch.cat([first, second, first[:1]])
    torch.testing.assert_close(recall_at_1(both, 3), torch.tensor([1 / 2, 2 / 3]))


def test_experts_learn_what_belongs_together_from_real_pairs(tmp_path: Path) -> None:
    sizes = ["data.train=200", "model.width=32", "task.y_model.width=32", "task.dim=16"]
    task = task_of(build(tmp_path, *sizes, "task.networks.epochs=6"))
    losses = [
        float(task._real_loss({n: v[0, age] for n, v in task.bank.items()}, {"pairs": task.train}))
        for age in (0, 6)
    ]
    assert losses[0] > math.log(200) > losses[1] + 1  # that of a guess among 200 pairs


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], [*REAL, "task.learn_temperature=true"]])
def test_reverse_is_forward_and_the_central_difference(words: list[str], tmp_path: Path) -> None:
    smooth = ["model.activation=tanh", "task.y_model.activation=tanh", "task.batch_size=3"]
    runner = build(tmp_path, *smooth, *words)
    loop, task, outer = runner.experiment.loop, task_of(runner), runner.state.outer
    data = task.sample(3, seeded(0))
    both = []
    for method in (Reverse(None, None), Forward()):
        carry = method.init(outer, loop.fresh(outer, data))
        both.append(method.estimate(loop, outer, data, carry).grad)
    found, forward = both
    assert set(found) == {"x", "y"}
    torch.testing.assert_close(found, forward, rtol=1e-9, atol=1e-12)
    direction = {name: torch.randn(value.shape) for name, value in outer.items()}

    def loss(step: float) -> Tensor:
        moved = trees.axpy(step, direction, outer)
        state = loop.run(loop.begin(moved, data, loop.fresh(moved, data)), moved, data)
        return task.outer_loss(state["inner"], moved, data.outer)

    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5  # error of order 1e-10
    torch.testing.assert_close(trees.dot(found, direction), difference, rtol=1e-6, atol=1e-10)


def test_the_objective_compares_both_encoders_with_those_of_an_expert(tmp_path: Path) -> None:
    task = task_of(build(tmp_path))
    outer, data = task.init_outer(seeded(0)), task.sample(2, seeded(1))
    begun = task.outer_loss(data.init, outer, data.outer)
    target = trees.under("target.", data.outer)
    torch.testing.assert_close(begun, torch.ones(()))
    side = {name: target[name] for name in target if name.startswith("x.")}
    misses = {n: (value - target[n]).square().sum() for n, value in data.init.items()}
    left = torch.stack([m for n, m in misses.items() if n.startswith("y.")]).sum()
    found = task.outer_loss(data.init | side, outer, data.outer)
    torch.testing.assert_close(found, left / torch.stack([*misses.values()]).sum())


# --- what becomes of the pairs --------------------------------------------------------------------


def test_a_distilled_set_is_in_the_units_of_the_data_which_read_it(tmp_path: Path) -> None:
    runner = build(tmp_path, "solver=gd_learned_lr")
    files = runner.result()
    assert [path.name for path in files] == ["distilled.npz", "distilled.png"]
    pool, _ = Pairs(str(files[0]), "x", "y", None, None, None, 1.0).read()
    assert pool.x.shape == pool.y.shape == (4, 1, 8, 4)
    # They start from real halves of digits, whose pixels are sixteenths.
    sixteenths = 16 * torch.cat([pool.x, pool.y])
    torch.testing.assert_close(sixteenths, sixteenths.round(), rtol=0, atol=1e-9)
    with np.load(files[0]) as archive:
        assert {"x_mean", "x_std", "y_mean", "y_std", "log_lr"} < set(archive)


def test_scores_of_real_pairs_stay_and_those_of_step_0_are_of_the_start(tmp_path: Path) -> None:
    runner = build(tmp_path, "outer_steps=2", "task/selection=herding", *REAL)
    task, loop = task_of(runner), runner.experiment.loop
    inner = runner.state.carry["inner"]["inner"]
    before = task.evaluate(loop, runner.state.outer, inner)
    assert before["retrained_recall"] == before["herding_recall"]
    runner.run()
    after = task.evaluate(loop, runner.state.outer, runner.state.carry["inner"]["inner"])
    real = ["random_recall", "herding_recall", "k_centre_recall", "random_2_recall"]
    assert list(after)[-4:] == real
    assert all(torch.equal(before[name], after[name]) for name in real)
    again = task_of(build(tmp_path / "again", *REAL))
    assert again.evaluate(loop, runner.state.outer, inner)["k_centre_recall"] == after[real[2]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.pairs=0", "task.beside=[]"], "pairs >= 1"),
        (["task.pairs=16"], r"at most 30 real pairs, those for training, got 32 .*beside=\[1\]"),
        (["task.gallery=21"], "gallery from 1 to 20"),
        (["task.batch_size=5"], "batch_size from 1 to 4"),
        ([*REAL, "task.real_batch_size=31"], "real_batch_size from 1 to 30"),
        (["task.temperature=0"], "temperature > 0"),
        (["task.dim=0"], "dim >= 1"),
        (["task/objective=validation"], "an objective that compares parameters, or none"),
        (["task/networks=fresh"], "Use task/networks=experts"),
        (["task/retraining=augmented"], "one that augments images"),
        (["data=digits"], "Use data=digit_halves"),
        (["model=linear"], "not zero at the start, got Linear for x"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    sizes = [part for part in small("distill_pairs") if part.split("=")[0] not in str(words)]
    unread = {"task/networks=fresh": "task.networks.epochs", "model=linear": "model.width"}
    for word, setting in unread.items():
        if word in words:
            sizes = [part for part in sizes if not part.startswith(setting)]
    with pytest.raises(UsageError, match=message):
        runner_in(composed("task=distill_pairs", "device=cpu", *sizes, *words), tmp_path)


def test_views_of_different_shapes_have_encoders_of_their_own(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    path = tmp_path / "my.npz"
    np.savez(path, x=numbers.normal(size=(60, 3, 4, 4)), y=numbers.normal(size=(60, 7)))
    words = ["data=pairs", f"data.path={path}", "model@task.y_model=projection", "outer_steps=1"]
    sizes = [p for p in small("distill_pairs") if not p.startswith(("data.", "task.y_model"))]
    runner = runner_in(composed("task=distill_pairs", "device=cpu", *sizes, *words), tmp_path)
    runner.run()
    assert {name: tuple(value.shape) for name, value in runner.state.outer.items()} == {
        "x": (4, 3, 4, 4),
        "y": (4, 7),
    }
    assert isinstance(task_of(runner).model.module.y, Projection)
    assert isinstance(task_of(runner).model.module.x, Mlp)
    assert [path.name for path in runner.result()] == ["distilled.npz"]

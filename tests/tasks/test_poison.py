"""Poisoned training examples: losses, boxes, the defence, and what a hypergradient says of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from problems import central_difference, seeded
from runners import built
from torch import Tensor
from torch.nn.functional import cross_entropy

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold

CPU = torch.device("cpu")
SMALL = ("task=poison", "data=breast_cancer", "data.train=20", "task.share=0.1")


def posed(*overrides: str) -> Any:
    config = composed(*SMALL, "task.follower_steps=30", *overrides)
    given = {"device": CPU, "generator": seeded(), "data": instantiate(config.data)}
    return instantiate(config.task, **given, model=instantiate(config.model))


def loop_of(task: Any, lr: float = 0.05) -> InnerLoop:
    return InnerLoop(task, GradientDescent(lr), Cold())


def somewhere(task: Any) -> Params:
    start = task.sample(1, seeded()).init
    return {n: torch.randn(v.shape, generator=seeded(3)).to(v) for n, v in start.items()}


def loss_on(inner: Params, x: Tensor, y: Tensor, l2: float) -> Tensor:
    logits = x @ inner["head.weight"].T + inner["head.bias"]
    return cross_entropy(logits, y) + l2 * sum(z.square().sum() for z in inner.values())


def test_the_follower_sees_poisons_beside_clean_examples_and_the_leader_clean_ones_alone() -> None:
    task = posed()
    outer, inner, data = task.init_outer(seeded()), somewhere(task), task.sample(1, seeded())
    assert len(task.y) == 2  # a tenth of 20
    x, y = torch.cat([task.train.x, outer["points"]]), torch.cat([task.train.y, task.y])
    found = task.inner_loss(inner, outer, data.inner_at(0))
    torch.testing.assert_close(found, loss_on(inner, x, y, 0.001))
    found = task.outer_loss(inner, outer, data.outer)
    held_out = loss_on(inner, data.outer["x"], data.outer["y"], 0.0)
    torch.testing.assert_close(found, -held_out)


def test_minibatches_of_clean_examples_have_the_loss_of_all_as_their_mean() -> None:
    task, whole = posed("task.batch_size=7"), posed()
    outer, inner, data = task.init_outer(seeded()), somewhere(task), task.sample(3, seeded())
    parts = [task.inner_loss(inner, outer, data.inner_at(t)) for t in range(3)]
    expected = whole.inner_loss(inner, outer, whole.sample(1, seeded()).inner_at(0))
    torch.testing.assert_close(torch.stack(parts).mean(), expected)


def test_the_hypergradient_is_the_slope_of_the_loss_of_followers_trained_anew() -> None:
    task = posed("task.l2=0.1")
    loop, outer = loop_of(task, lr=0.1), task.init_outer(seeded())
    data = task.sample(600, seeded())  # the Hessian is at least 0.2: 0.98^600 is 5e-6

    def retrained(outer: Params) -> Tensor:
        inner = loop.run(loop.fresh(outer, data), outer, data)["inner"]
        return task.outer_loss(inner, outer, data.outer)

    method = Implicit(Exact(0.0, None), warm_adjoint=False, curvature="hessian", clip=None)
    carry = method.init(outer, loop.fresh(outer, data))
    found = method.estimate(loop, outer, data, carry).grad
    row = {"points": outer["points"][:1, :4]}

    def moved(part: Params) -> Tensor:
        points = outer["points"].clone()
        points[:1, :4] = part["points"]
        return retrained({"points": points})

    slope = central_difference(moved, row, 1e-4)
    torch.testing.assert_close(found["points"][:1, :4], slope["points"], rtol=1e-3, atol=1e-8)


def test_flipped_poisons_bear_another_label_and_kept_ones_their_own() -> None:
    flips = posed("data=digits", "data.train=60", "task.share=1.0")
    kept = posed("data=digits", "data.train=60", "task.share=1.0", "task.labels=kept")
    assert torch.equal(flips.origin, kept.origin)
    assert not (flips.y == kept.y).any()
    rows = (flips.train.index[:, None] == kept.origin).int().argmax(0)
    assert torch.equal(kept.y, kept.train.y[rows])
    assert torch.equal(kept.init_outer(seeded())["points"], kept.train.x[rows])


@pytest.mark.parametrize("clip", ["null", "[-0.5,0.25]"])
@pytest.mark.parametrize("attack", ["points", "network"])
def test_poisons_stay_in_their_box(attack: str, clip: str) -> None:
    task = posed(f"task/attack={attack}", f"task.clip={clip}")
    low, high = (-0.5, 0.25) if clip != "null" else (task.train.x.amin(0), task.train.x.amax(0))
    outer = task.init_outer(seeded())
    far = {n: v + 9 * torch.randn(v.shape, generator=seeded(1)).to(v) for n, v in outer.items()}
    for points in (task.attack.inputs(outer), task.attack.inputs(task.project_outer(far))):
        assert ((points >= low) & (points <= high)).all()


def test_random_poisons_lie_anywhere_in_the_box() -> None:
    task = posed("task.attack.begin=random", "task.share=10.0", "task.clip=[2,3]")
    points = task.init_outer(seeded())["points"]
    # Uniform: 200 rows of 30 numbers have a mean within 5 standard errors of 2.5.
    assert abs(points.mean() - 2.5) < 5 * (1 / 12 / 6000) ** 0.5


def test_followers_of_an_evaluation_are_trained_on_what_is_kept() -> None:
    task = posed()
    loop, outer = loop_of(task), task.init_outer(seeded())
    keep = torch.ones(22)
    keep[[3, 20, 21]] = 0.0  # a clean example and both poisons are left out
    inner = task._follower(loop, outer, keep)
    rows = torch.arange(20) != 3
    expected = {n: torch.zeros_like(z) for n, z in inner.items()}
    for _ in range(30):
        with torch.enable_grad():
            now = {n: z.requires_grad_() for n, z in expected.items()}
            loss = loss_on(now, task.train.x[rows], task.train.y[rows], 0.001)
            slopes = torch.autograd.grad(loss, list(now.values()))
        steps = zip(expected.items(), slopes, strict=True)
        expected = {n: z.detach() - 0.05 * slope for (n, z), slope in steps}
    torch.testing.assert_close(inner, expected)


def test_a_defence_that_removes_all_poisons_brings_the_clean_accuracy_back() -> None:
    task = posed("task.clip=[-50,50]", "task.attack.begin=examples")
    outer, loop = task.init_outer(seeded()), loop_of(task)
    clean = task._follower(loop, outer, torch.cat([torch.ones(20), torch.zeros(2)]))
    # Far out on the wrong side of the clean classifier: no loss is larger.
    away = clean["head.weight"][1 - task.y] - clean["head.weight"][task.y]
    outer = {"points": 50 * away.sign()}
    scores = task.evaluate(loop, outer, clean)
    assert scores["caught"] == 1
    assert scores["defended_accuracy"] == scores["test_accuracy"]
    assert scores["drop"] == 0


def test_step_zero_scores_label_flips_and_a_result_is_data_for_others(tmp_path: Path) -> None:
    run = built(
        tmp_path / "run",
        *(*SMALL, "task.follower_steps=20", "method=cg", "outer_steps=2", "inner_steps=3"),
        *("retrain=20", "eval_every=2"),
    )
    assert run.run()
    run.result()
    task = run.experiment.task
    with np.load(tmp_path / "run" / "poisons.npz") as file:
        assert file["x"].shape == (2, 30)
        assert file["y"].tolist() == task.y.tolist()  # type: ignore[attr-defined]
        assert file["index"].tolist() == task.origin.tolist()  # type: ignore[attr-defined]
    columns = (tmp_path / "run" / "eval.csv").read_text().splitlines()[0].split(",")
    asked = {"drop", "test_accuracy", "defended_accuracy", "caught", "retrained_drop"}
    assert asked <= set(columns)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.share=0", "Poison needs a share > 0, got share=0"),
        ("task.labels=wrong", "Poison needs labels=flipped or labels=kept, got labels=wrong"),
        ("task.clip=[1,0]", r"needs clip=\[low,high\] with low < high, or null, got clip=\[1, 0\]"),
        ("task.follower_steps=0", "Poison needs follower_steps >= 1, got follower_steps=0"),
        ("task.l2=-1", "Poison needs a finite l2 >= 0, got l2=-1"),
        ("task.attack.begin=here", "Points needs begin=examples or begin=random, got begin=here"),
    ],
)
def test_settings_that_cannot_serve_are_refused(override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        posed(override)

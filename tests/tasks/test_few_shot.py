"""What is special to each kind of meta-learning."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed, options
from hydra.utils import instantiate
from problems import Plane, central_difference, seeded
from runners import built
from torch import Tensor

from bilevel_cli.core import autodiff, episodes, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import InnerSolver, Learned
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Classes, ClassSplits
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.models import Conv4, Mlp
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.meta_sgd import MetaSgd
from bilevel_cli.solvers.weight_decay import WeightDecay
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned as LearnedStart
from bilevel_cli.tasks.few_shot.classification import FewShot
from bilevel_cli.tasks.few_shot.hyper_representation import HyperRepresentation
from bilevel_cli.tasks.few_shot.sinusoid import Sinusoid

CPU = torch.device("cpu")
REVERSE = Reverse(None, None)


def last_loss(loop: InnerLoop, data: StepData, outer: Params) -> Tensor:
    state = loop.run(loop.begin(outer, data, loop.fresh(outer, data)), outer, data)
    return loop.problem.outer_loss(state["inner"], outer, data.outer)


def reverse(loop: InnerLoop, data: StepData, outer: Params) -> Params:
    return REVERSE.estimate(loop, outer, data, {"inner": loop.fresh(outer, data)}).grad


# --- meta-SGD -------------------------------------------------------------------------------------

PLANE = Plane()


def test_equal_step_sizes_are_gradient_descent_and_their_slopes_sum_to_its() -> None:
    data = PLANE.data(4, (0.3, 1.0))
    one = InnerLoop(PLANE, GradientDescent(Learned("log_lr", 0.05)), Cold())
    each = InnerLoop(PLANE, MetaSgd(0.05), Cold())
    outer = {"x": PLANE.x, **one.outer_init(data, {}), **each.outer_init(data, {})}
    torch.testing.assert_close(last_loss(one, data, outer), last_loss(each, data, outer))
    shared, own = reverse(one, data, outer), reverse(each, data, outer)
    # d/dlog_lr = lr * d/dlr, and a common step size moves every entry's.
    torch.testing.assert_close(shared["log_lr"], 0.05 * own["lr.y"].sum())
    torch.testing.assert_close(shared["x"], own["x"])


def test_the_slope_of_a_step_size_is_that_of_differences() -> None:
    data = PLANE.data(4, (0.3, 1.0))
    loop = InnerLoop(PLANE, WeightDecay(MetaSgd(0.05), 0.01), Cold())
    outer = {"x": PLANE.x, **loop.outer_init(data, {})}
    outer["lr.y"] = torch.tensor([0.1, -0.2])  # one uphill
    found = reverse(loop, data, outer)
    for name, slope in central_difference(partial(last_loss, loop, data), outer).items():
        torch.testing.assert_close(found[name], slope, rtol=1e-7, atol=1e-9)


def test_every_entry_of_a_start_that_the_task_learns_has_a_step_size() -> None:
    task = sinusoid()
    outer, data = task.init_outer(seeded()), episodes.first(task.sample(2, seeded()))
    added = InnerLoop(task, MetaSgd(0.1), Cold()).outer_init(data, outer)
    assert {name.removeprefix("lr.") for name in added} == set(task.init_inner(outer, data))
    assert all(bool((value == 0.1).all()) for value in added.values())
    assert trees.size(added) == trees.size(outer)


def test_a_step_size_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MetaSgd needs a finite step size lr > 0 .* lr=0.0"):
        MetaSgd(0.0)


def test_learned_step_sizes_are_written(tmp_path: Path) -> None:
    run = built(tmp_path, "task=sinusoid", "solver=meta_sgd", *SMALL, "device.dtype=float64")
    run.run()
    assert {path.name for path in run.result()} == {"initialisation.pt", "outer.pt"}
    kept = torch.load(tmp_path / "outer.pt")
    assert not torch.equal(kept["lr.head.weight"], torch.full((1, 40), 0.01))


# --- sinusoids ------------------------------------------------------------------------------------

SMALL = ["task.episodes=3", "task.eval_episodes=5", "outer_steps=3"]


def sinusoid(**changes: Any) -> Sinusoid:
    settings: dict[str, Any] = {"shots": 4, "queries": 6, "episodes": 3, "amplitude": [0.1, 5.0]}
    settings |= {"phase": [0.0, math.pi], "inputs": [-5.0, 5.0], "eval_episodes": 20}
    settings |= {"eval_steps": [0, 2], "model": partial(Mlp, 7, 2, "tanh"), **changes}
    return Sinusoid(**settings, device=CPU, generator=seeded())


def test_points_of_an_episode_lie_on_one_sinusoid() -> None:
    data = sinusoid(amplitude=[2.0, 2.0], phase=[0.5, 0.5]).sample(3, seeded())
    assert data.inner["x"].shape == (3, 3, 4, 1)
    assert data.outer["y"].shape == (3, 6, 1)
    for part in (data.inner, data.outer):
        torch.testing.assert_close(part["y"], 2 * torch.sin(part["x"] - 0.5))


def test_sinusoids_have_the_moments_that_bound_who_does_not_adapt() -> None:
    data = sinusoid().draw(40_000, 1, seeded())
    x, y = data.outer["x"], data.outer["y"]
    # E A^2 / 2, and that less the mean square of E[y | x] = -2 E[A] / pi * cos(x).
    zero = (5**3 - 0.1**3) / (3 * 4.9) / 2
    bound = zero - (2 * 2.55 / math.pi) ** 2 * (0.5 + math.sin(10) / 20)
    assert (round(zero, 3), round(bound, 3)) == (4.252, 3.006)
    # 240 000 points of 40 000 curves: a standard error of about 0.02.
    assert float(y.square().mean()) == pytest.approx(zero, abs=0.08)
    best = -2 * 2.55 / math.pi * x.cos()
    assert float((y - best).square().mean()) == pytest.approx(bound, abs=0.08)


def test_the_gradient_of_a_sinusoid_start_is_that_of_differences() -> None:
    task = sinusoid()
    loop, data = InnerLoop(task, GradientDescent(0.02), Cold()), episodes.first(draw(task))
    outer = task.init_outer(seeded())
    found = reverse(loop, data, outer)
    for name, slope in central_difference(partial(last_loss, loop, data), outer).items():
        torch.testing.assert_close(found[name], slope, rtol=1e-6, atol=1e-8)


def draw(task: Any) -> StepData:
    return task.sample(3, seeded(1))


def test_the_errors_of_an_evaluation_are_those_of_its_steps() -> None:
    task = sinusoid()
    loop, outer = InnerLoop(task, GradientDescent(0.02), Cold()), task.init_outer(seeded())
    scores = task.evaluate(loop, outer, {})
    assert list(scores) == ["mse_2", "mse_0", "ci95"]
    data = task.draw(20, 2, seeded(task.eval_seed))
    before = episodes.each(lambda one: task.outer_loss(start(outer), outer, one.outer))(data)
    torch.testing.assert_close(scores["mse_0"], before.mean())


def start(outer: Params) -> Params:
    return trees.under("init.", outer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 0}, "Sinusoid needs shots >= 1, got shots=0. Set task.shots."),
        ({"eval_episodes": 1}, "needs eval_episodes >= 2, got eval_episodes=1"),
        ({"phase": [1.0]}, r"phase as \[least, largest\], got phase=\[1.0\]"),
        ({"inputs": [1.0, -1.0]}, "Set task.inputs"),
        ({"eval_steps": []}, "Sinusoid needs eval_steps"),
    ],
)
def test_an_impossible_sinusoid_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sinusoid(**changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "errors"),
    # Meta-SGD learns steps for one step, after which more of them lead away.
    [("gd", {"mse_1": 1.5, "mse_10": 0.75}), ("meta_sgd", {"mse_1": 0.75})],
)
def test_a_learned_start_adapts_to_what_no_fixed_regressor_can_know(
    solver: str, errors: dict[str, float], tmp_path: Path
) -> None:
    steps = [0, *(int(name.removeprefix("mse_")) for name in errors)]
    sizes = ["task.episodes=10", "outer_steps=1000", "optimizer.lr=0.002"]
    run = built(tmp_path, "task=sinusoid", f"solver={solver}", f"task.eval_steps={steps}", *sizes)
    run.run()
    final = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert final["mse_0"] > 3.006 - 3 * 0.2  # the standard error of 200 episodes
    # A half and a quarter of the bound on who does not adapt.
    assert all(final[name] < bound for name, bound in errors.items())


# --- hyper-representation -------------------------------------------------------------------------


class Noise(Classes):
    def classes(self) -> ClassSplits:
        every = torch.randint(0, 256, (12, 8, 1, 6, 6), generator=seeded())
        images = every.to(torch.uint8)
        return ClassSplits(images[:5], images[5:8], images[8:])

    @property
    def split_statement(self) -> str:
        return "five, three and four"


def hyper(**changes: Any) -> HyperRepresentation:
    settings: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 4, "episodes": 2}
    settings |= {"adapt": "head", "eval_episodes": 4, "eval_steps": 2, "penalty": 0.0}
    settings |= {"power": 0.5, "smoothing": 0.1, "model": partial(Mlp, 4, 1, "tanh"), **changes}
    return HyperRepresentation(**settings, data=Noise(), device=CPU, generator=seeded())


def test_the_features_are_outer_and_the_head_begins_at_one_fixed_point() -> None:
    task = hyper()
    outer, data = task.init_outer(seeded()), draw(task)
    assert set(outer) == {"shared.hidden.0.weight", "shared.hidden.0.bias"}
    assert set(data.init) == {"head.weight", "head.bias"}
    assert torch.equal(data.init["head.weight"][0], data.init["head.weight"][1])
    other = task.sample(3, seeded(9)).init
    assert all(torch.equal(data.init[name], other[name]) for name in other)


def test_a_learned_start_makes_it_the_split_with_a_learned_head() -> None:
    task = hyper()
    added = LearnedStart().outer_init(episodes.first(draw(task)))
    assert set(added) == {"init.head.weight", "init.head.bias"}


def test_the_penalty_is_its_formula_and_the_outer_loss_has_none() -> None:
    plain, penal = hyper(), hyper(penalty=0.25)
    outer, data = plain.init_outer(seeded()), episodes.first(draw(plain))
    inner, batch = data.init, data.inner_at(0)
    gap = penal.inner_loss(inner, outer, batch) - plain.inner_loss(inner, outer, batch)
    size2 = sum(value.square().sum() for value in inner.values()) + 0.1**2
    torch.testing.assert_close(gap, 0.25 * size2**0.25)
    assert torch.equal(
        penal.outer_loss(inner, outer, data.outer), plain.outer_loss(inner, outer, data.outer)
    )


def test_the_penalty_of_power_two_is_ridge() -> None:
    plain, ridge = hyper(), hyper(penalty=0.3, power=2)
    outer, data = plain.init_outer(seeded()), episodes.first(draw(plain))

    def slope(task: HyperRepresentation) -> Params:
        return autodiff.grad(task.inner_loss)(data.init, outer, data.inner_at(0))

    expected = trees.axpy(0.6, data.init, slope(plain))
    torch.testing.assert_close(slope(ridge), expected)


@pytest.mark.parametrize("penalty", [0.0, 0.25])
def test_the_gradient_of_the_features_is_that_of_differences(penalty: float) -> None:
    task = hyper(penalty=penalty)
    loop, data = InnerLoop(task, GradientDescent(0.3), Cold()), episodes.first(draw(task))
    outer = task.init_outer(seeded())
    found = reverse(loop, data, outer)
    for name, slope in central_difference(partial(last_loss, loop, data), outer).items():
        torch.testing.assert_close(found[name], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("option", ["cg", "neumann"])
def test_implicit_methods_agree_with_a_long_unrolled_solve(option: str) -> None:
    task = hyper(penalty=0.3, power=2)  # strongly convex in the head: gradient descent converges
    solver: InnerSolver[Any] = GradientDescent(0.5)
    loop, data = InnerLoop(task, solver, Cold()), episodes.first(task.sample(200, seeded(1)))
    outer = task.init_outer(seeded())
    overrides = ["task=hyper_representation", f"method={option}"]
    if option == "neumann":
        overrides += ["method.linear_solver.step_size=0.5", "method.linear_solver.max_steps=200"]
    method: Hypergradient[Any] = instantiate(composed(*overrides).method)
    method.check(loop, outer, data)
    found = method.estimate(loop, outer, data, method.init(outer, loop.fresh(outer, data)))
    expected = reverse(loop, data, outer)
    for name, slope in expected.items():
        torch.testing.assert_close(found.grad[name], slope, rtol=1e-6, atol=1e-9)


def test_what_is_written_is_the_whole_model(tmp_path: Path) -> None:
    task = hyper(model=partial(Conv4, 3))
    outer, data = task.init_outer(seeded()), episodes.first(draw(task))
    (path,) = task.save_result(tmp_path, outer, {})
    module = Conv4(width=3, input_shape=(1, 6, 6), num_outputs=3)
    module.load_state_dict(torch.load(path))
    x = torch.rand(4, 1, 6, 6)
    torch.testing.assert_close(module(x), task._logits(data.init, outer, x))


@pytest.mark.parametrize("changes", [{"penalty": -1.0}, {"power": 2.5}, {"smoothing": 0.0}])
def test_an_impossible_penalty_is_refused(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}={changes[name]}.* Set task.penalty=0"):
        hyper(**changes)


# --- presets --------------------------------------------------------------------------------------

PRESETS = ["maml", "anil", "imaml", "meta_sgd", "hyper_representation"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_a_step_on_data_that_need_no_download(preset: str, tmp_path: Path) -> None:
    sizes = ["model.width=2", "task.episodes=2", "task.eval_episodes=4", "outer_steps=1"]
    run = built(tmp_path, f"experiment={preset}", "inner_steps=2", *sizes)
    before = {name: value.clone() for name, value in run.state.outer.items()}
    assert run.run()
    assert all(path.exists() for path in run.result())
    moved = {
        name for name, value in run.state.outer.items() if not torch.equal(value, before[name])
    }
    assert moved >= {n for n in before if n.endswith("weight")}


@pytest.mark.parametrize("preset", [name for name in options("experiment") if "way_" in name])
def test_a_published_protocol_has_the_episodes_of_its_name(preset: str) -> None:
    task = composed(f"experiment={preset}").task
    assert preset.endswith(f"_{task.ways}way_{task.shots}shot")
    assert task.eval_episodes >= 600


# --- episodes of images ---------------------------------------------------------------------------


class Bars(Classes):
    """Twelve classes of 6x6 images that say their class in every pixel, for bookkeeping."""

    def classes(self) -> ClassSplits:
        every = torch.arange(12, dtype=torch.uint8)[:, None, None, None, None] * 20
        noise = torch.arange(8, dtype=torch.uint8)[None, :, None, None, None]
        images = (every + noise).expand(12, 8, 1, 6, 6)
        return ClassSplits(images[:5], images[5:8], images[8:])

    @property
    def split_statement(self) -> str:
        return "five, three and four"


def few_shot(**changes: Any) -> FewShot:
    settings: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 4, "episodes": 5, "adapt": "all"}
    settings |= {"eval_episodes": 4, "eval_steps": 2, **changes}
    model = partial(Conv4, width=3)
    return FewShot(**settings, data=Bars(), model=model, device=CPU, generator=seeded())


def test_an_episode_has_its_classes_shots_and_labels_and_no_image_twice() -> None:
    task = few_shot()
    data = task.sample(7, seeded())
    assert data.inner["x"].shape == (5, 7, 6, 1, 6, 6)
    assert data.outer["x"].shape == (5, 12, 1, 6, 6)
    assert data.inner["y"][0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    for episode in range(5):
        support = (data.inner["x"][episode, 0, :, 0, 0, 0] * 255).round().int()
        query = (data.outer["x"][episode, :, 0, 0, 0] * 255).round().int()
        classes = [int(pixels[0]) // 20 for pixels in support.reshape(3, 2)]
        assert len(set(classes)) == 3
        assert max(classes) < 5  # training classes
        for label, images in enumerate(torch.cat([support.reshape(3, 2), query.reshape(3, 4)], 1)):
            assert {int(pixel) // 20 for pixel in images} == {classes[label]}
            assert len(set(images.tolist())) == 6


def test_evaluation_draws_unseen_classes() -> None:
    task = few_shot()
    for part, allowed in (("validation", range(5, 8)), ("test", range(8, 12))):
        pixels = (task.draw(part, 20, 1, seeded()).outer["x"] * 255).round().int()
        assert set((pixels // 20).flatten().tolist()) == set(allowed)


def test_the_split_of_parameters_between_the_levels() -> None:
    everything = few_shot().init_outer(seeded())
    assert all(name.startswith("init.") for name in everything)
    task = few_shot(adapt="head")
    outer = task.init_outer(seeded())
    assert {name for name in outer if name.startswith("init.")} == {
        "init.head.weight",
        "init.head.bias",
    }
    assert set(task.init_inner(outer, task.sample(1, seeded()))) == {"head.weight", "head.bias"}
    assert "shared.features.0.weight" in outer
    assert trees.size(outer) == trees.size(everything)


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_the_start_does_not_matter_where_the_task_learns_its_own(adapt: str) -> None:
    task = few_shot(adapt=adapt)
    outer, data = task.init_outer(seeded()), task.sample(2, seeded())
    assert LearnedStart().outer_init(data) == {}
    scores = [
        task.evaluate(InnerLoop(task, GradientDescent(0.1), start), outer, {})
        for start in (Cold(), LearnedStart())
    ]
    assert scores[0] == scores[1]


def test_the_confidence_interval_is_that_of_the_mean() -> None:
    task = few_shot(eval_episodes=30, queries=3)
    loop = InnerLoop(task, GradientDescent(0.1), LearnedStart())
    outer = task.init_outer(seeded())
    scores = task.evaluate(loop, outer, {})
    random = torch.Generator().manual_seed(task.eval_seed)
    data = task.draw("test", 30, 2, random)
    accuracies = []
    for episode in range(30):
        pick = {name: value[episode] for name, value in data.inner.items()}
        one = data._replace(inner=pick, outer={n: v[episode] for n, v in data.outer.items()})
        state = loop.run(loop.begin(outer, one, loop.fresh(outer, one)), outer, one)
        predicted = task.model.apply(state["inner"], one.outer["x"]).argmax(1)
        accuracies.append((predicted == one.outer["y"]).double().mean())
    every = torch.stack(accuracies)
    torch.testing.assert_close(scores["test_accuracy"], every.mean())
    torch.testing.assert_close(scores["test_ci95"], 1.96 * every.std() / 30**0.5)


def test_the_saved_initialisation_is_a_state_dict_of_the_model(tmp_path: Path) -> None:
    task = few_shot(adapt="head")
    outer = task.init_outer(seeded())
    (path,) = task.save_result(tmp_path, outer, {})
    module = Conv4(width=3, input_shape=(1, 6, 6), num_outputs=3)
    module.load_state_dict(torch.load(path))
    x = torch.rand(4, 1, 6, 6)
    inner = trees.under("init.", outer)
    expected: Tensor = task._logits(inner, outer, x)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 4}, "FewShot needs ways <= 3 and shots \\+ queries <= 8 to draw episodes of val"),
        ({"shots": 5}, "Lower task.ways, task.shots or task.queries"),
        ({"ways": 1}, "FewShot needs ways >= 2, got ways=1. Set task.ways."),
        ({"adapt": "tail"}, "got adapt=tail. The model has features.0.weight"),
    ],
)
def test_an_impossible_episode_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        few_shot(**changes)

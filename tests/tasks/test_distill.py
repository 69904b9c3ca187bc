"""Dataset distillation: its objectives, its augmentation, and what becomes of the images."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import composed, options, small
from runners import runner_in
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cosine_similarity, cross_entropy, interpolate

from bilevel_cli.checks.conformance import check_task
from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.simplex import onto_simplex
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.models import ConvNet, Linear, Mlp
from bilevel_cli.nn.functional import Functional, functional
from bilevel_cli.runs.runner import Runner
from bilevel_cli.tasks.distillation.distillation import Distillation
from bilevel_cli.tasks.distillation.objectives.distribution_matching import DistributionMatching
from bilevel_cli.tasks.distillation.objectives.gradient_matching import GradientMatching
from bilevel_cli.tasks.distillation.objectives.kernel_ridge import KernelRidge, ridge_loss
from bilevel_cli.tasks.distillation.objectives.trajectory_matching import (
    Importance,
    TrajectoryMatching,
)
from bilevel_cli.tasks.distillation.siamese import NUMBERS, Siamese
from bilevel_cli.tasks.distillation.upsampled import Upsampled

NEUTRAL: dict[str, Any] = {
    "color": False,
    "crop": 0.0,
    "cutout": 0.0,
    "flip": False,
    "scale": 1.0,
    "rotate": 0.0,
}
EXPERTS = ["task/networks=experts", "task.networks.count=1", "task.networks.batch_size=20"]
ONE = ["task.count=1", "task.learn_labels=true"]
TINY = {"fresh": ["task.networks.count=2"], "experts": EXPERTS}
FAST = [part for part in small("distill") if not part.startswith("task.networks")]


def build(directory: Path, *overrides: str, networks: str = "fresh") -> Runner:
    words = ["task=distill", "device=cpu", "device.dtype=float64", *FAST, *TINY[networks]]
    config = composed(*words, *overrides)
    return runner_in(config, directory)


def task_of(runner: Runner) -> Distillation:
    assert isinstance(runner.experiment.task, Distillation)
    return runner.experiment.task


def model(module: nn.Module) -> tuple[Functional, Params]:
    made = functional(lambda: module)
    return made, made.init(torch.Generator().manual_seed(0))


def sets(*sizes: int) -> list[Params]:
    """Images 8x8 of three classes, so many of each, and their labels."""
    labels = torch.eye(3)[:, None]
    return [{"x": torch.randn(3, n, 1, 8, 8), "y": labels.expand(-1, n, -1)} for n in sizes]


# --- objectives -----------------------------------------------------------------------------------


def test_kernel_ridge_regression_has_the_published_loss_and_derivatives() -> None:
    x_s, y_s = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [-1.0]])
    x_t, y_t = (
        torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.0, 1.0]]),
        torch.tensor([[0.5], [1], [-1]]),
    )
    both = autodiff.grad_and_value(ridge_loss, (0, 1))
    (dx, dy), loss = both(x_s, y_s, x_t, y_t, torch.tensor(0.1))
    # Central differences gave these, to 1e-7.
    torch.testing.assert_close(loss, torch.tensor(0.3290234971), rtol=0, atol=1e-9)
    expected = torch.tensor([[-0.62808085, 0.36801687], [0.1102502, -0.06747515]])
    torch.testing.assert_close(dx, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(dy[:, 0], torch.tensor([0.76765437, -0.14187082]), rtol=0, atol=1e-7)


def test_kernel_ridge_is_the_loss_of_the_last_layer_trained_to_its_optimum() -> None:
    network, params = model(Mlp(7, 1, "tanh", (1, 8, 8), 3))
    learned, real = sets(4, 5)
    found = KernelRidge(0.01)(network, params, learned, real, {})
    (f, y), (g, t) = (
        (network.features(params, s["x"].flatten(0, 1)), s["y"].flatten(0, 1) - 1 / 3)
        for s in (learned, real)
    )
    penalty = 0.01 * f.square().sum() / len(f)
    # The normal equations, in as many unknowns as there are features: the primal form.
    head = torch.linalg.solve(f.mT @ f + penalty * torch.eye(7), f.mT @ y)
    torch.testing.assert_close(found, 0.5 * (g @ head - t).square().sum(1).mean())


def test_kernel_ridge_survives_single_precision_with_a_tiny_penalty() -> None:
    x = 1 + 1e-4 * torch.randn(50, 10)  # nearly one example, fifty times: condition 1e8
    y, penalty = torch.randn(50, 1), torch.tensor(1e-6)
    exact = ridge_loss(x.float().double(), y, x.float().double(), y, penalty)
    single = ridge_loss(x.float(), y.float(), x.float(), y.float(), penalty.float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


def test_gradient_matching_sums_one_minus_cosine_over_rows_layers_and_classes() -> None:
    module = ConvNet(4, 2, (1, 8, 8), 3)
    network, params = model(module)
    learned, real = sets(1, 3)
    expected = torch.zeros(())
    with torch.enable_grad():
        for group in range(3):
            slopes = []
            for some in (learned, real):
                loss = cross_entropy(network.apply(params, some["x"][group]), some["y"][group])
                del loss
                for name, value in module.named_parameters():
                    value.data.copy_(params[name])
                loss = cross_entropy(module(some["x"][group]), some["y"][group])
                slopes.append(torch.autograd.grad(loss, list(module.parameters())))
            for ours, theirs in zip(*slopes, strict=True):
                if ours.ndim > 1:
                    expected += (1 - cosine_similarity(ours.flatten(1), theirs.flatten(1))).sum()
    found = GradientMatching()(network, params, learned, real, {})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_gradient_matching_of_a_set_with_itself_is_zero() -> None:
    network, params = model(ConvNet(4, 2, (1, 8, 8), 3))
    (learned,) = sets(2)
    # But for the term against rows of zeros, 1e-12 of squared norms that are some 1e-6 at least.
    found = GradientMatching()(network, params, learned, learned, {})
    torch.testing.assert_close(found, torch.zeros(()), rtol=0, atol=1e-4)


def test_distribution_matching_on_inputs_leads_to_class_means_in_one_step_of_one_half() -> None:
    network, params = model(Linear((1, 8, 8), 3))
    learned, real = sets(1, 6)

    def loss(x: Tensor) -> Tensor:
        return DistributionMatching()(network, params, {**learned, "x": x}, real, {})

    # F = sum |x_c - mean_c|^2, whose Hessian is 2 I.
    stepped = learned["x"] - 0.5 * autodiff.grad(loss)(learned["x"])
    torch.testing.assert_close(stepped, real["x"].mean(1, keepdim=True))


def test_trajectory_matching_is_one_at_the_start_and_zero_at_the_target() -> None:
    network, start = model(Mlp(3, 1, "tanh", (1, 8, 8), 3))
    end = {name: value + 1 for name, value in start.items()}
    target = trees.prefixed("origin.", start) | trees.prefixed("target.", end)
    halfway = trees.axpy(0.5, trees.axpy(-1.0, start, end), start)
    losses = [TrajectoryMatching(None)(network, z, {}, {}, target) for z in (start, halfway, end)]
    torch.testing.assert_close(torch.stack(losses), torch.tensor([1, 0.25, 0]))


def test_weights_of_the_way_travelled_make_the_quotient_of_all_parameters() -> None:
    network, start = model(Mlp(5, 2, "relu", (1, 8, 8), 3))
    end = {name: value + torch.randn_like(value) for name, value in start.items()}
    z = {name: value + torch.randn_like(value) for name, value in start.items()}
    target = trees.prefixed("origin.", start) | trees.prefixed("target.", end)

    def loss(objective: TrajectoryMatching, logits: Tensor) -> Tensor:
        learned = dict(zip(objective.begin(network), logits, strict=True))
        return objective(network, z, learned, {}, target)

    travelled: dict[str, Tensor] = {}
    for name, value in end.items():
        layer = name.rpartition(".")[0]
        square = (value - start[name]).square().sum()
        travelled[layer] = travelled.get(layer, torch.zeros(())) + square
    logits = torch.stack(list(travelled.values())).log()
    weighted = loss(TrajectoryMatching(Importance(1e-15)), logits)
    torch.testing.assert_close(weighted, loss(TrajectoryMatching(None), logits[:0]))


def test_no_layer_loses_all_its_weight_whatever_is_learned() -> None:
    weights = Importance(0.5).weights(torch.tensor([-1e3, 0.0, 1e3]))
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 1 / 6, 2 / 3]))
    assert torch.equal(Importance(1.0).weights(torch.randn(4)), torch.full((4,), 0.25))
    with pytest.raises(ValueError, match="all weight goes to the layer"):
        Importance(0.0)


def test_experts_without_an_ascent_are_the_plain_ones_bit_for_bit(tmp_path: Path) -> None:
    flat = ["task/networks/trainer=gsam", "task.networks.trainer.rho=0"]
    plain, same = (build(tmp_path, *words, networks="experts") for words in ([], flat))
    banks = task_of(plain).bank, task_of(same).bank
    assert all(torch.equal(banks[0][name], banks[1][name]) for name in banks[0])
    bent = build(tmp_path, flat[0], networks="experts")
    assert not all(torch.equal(v, banks[0][name]) for name, v in task_of(bent).bank.items())


def test_the_error_accumulates_from_the_networks_own_end(tmp_path: Path) -> None:
    words = ["model=linear", "task/segments=accumulated", "task.segments.count=2", "inner_steps=3"]
    runner = build(tmp_path, *words, "solver.lr=0.1", "start=cold", networks="experts")
    task, outer = task_of(runner), runner.state.outer
    found = task.evaluate(
        runner.experiment.loop, outer, task.init_inner(outer, task.sample(1, torch.Generator()))
    )
    images, labels = outer["images"].flatten(1), task.labels
    ages = [{n: v[0, age] for n, v in task.bank.items()} for age in range(3)]
    z = ages[0]

    def loss(z: Params) -> Tensor:
        bias, weight = sorted(z.values(), key=Tensor.dim)
        return cross_entropy(images @ weight.mT + bias, labels)

    for stretch in (1, 2):
        for _ in range(3):
            z = trees.axpy(-0.1, autodiff.grad(loss)(z), z)
        way, miss = (
            sum((one[n] - v).square().sum() for n, v in ages[stretch].items())
            for one in (ages[0], z)
        )
        expected = torch.as_tensor(miss / way)
        torch.testing.assert_close(found[f"accumulated_error_{stretch}"], expected)


def test_experts_too_short_for_the_stretches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs experts of count=9 stretches, got 5"):
        build(tmp_path, "task/segments=accumulated", "task.segments.count=9", networks="experts")
    with pytest.raises(UsageError, match="needs experts of count=5 stretches, got 0"):
        build(tmp_path, "task/segments=accumulated")


SUITED = {
    "validation": ["method=reverse"],
    "gradient_matching": ["method=direct", "start=pool"],
    "distribution_matching": ["method=direct"],
    "kernel_ridge": ["method=direct", "start=pool"],
    "trajectory_matching": ["method=tesla", "solver=gd_learned_lr"],
}


@pytest.mark.parametrize("objective", options("task/objective"))
def test_every_objective_conforms_and_descends(objective: str, tmp_path: Path) -> None:
    words = [f"task/objective={objective}", "task/siamese=digits", *SUITED[objective]]
    words += ["model=mlp", "model.width=10", "outer_steps=2", "inner_steps=2"]
    words += ["task.learn_labels=true", "task.per_class=2", "task.batch_size=15"]
    networks = "experts" if objective == "trajectory_matching" else "fresh"
    runner = build(tmp_path, *words, networks=networks)
    check_task(runner.experiment.task)
    before = runner.state.outer["images"].clone()
    runner.run()
    assert not torch.equal(runner.state.outer["images"], before)


@pytest.mark.parametrize("objective", sorted(set(SUITED) - {"validation"}))
def test_the_gradient_of_an_objective_is_its_central_difference(
    objective: str, tmp_path: Path
) -> None:
    words = [f"task/objective={objective}", "method=direct", "start=pool", "task/siamese=digits"]
    if objective == "kernel_ridge":
        words += ["task.objective.penalty=0.01"]  # differences are exact to the condition's power
    if objective == "trajectory_matching":
        words[1] = "method=reverse"
    networks = "experts" if objective == "trajectory_matching" else "fresh"
    runner = build(tmp_path, *words, "model=convnet_32", "model.width=3", networks=networks)
    task, outer = task_of(runner), runner.state.outer
    loop, method = runner.experiment.loop, runner.experiment.method
    data = task.sample(2, torch.Generator().manual_seed(0))
    direction = torch.randn(outer["images"].shape)

    def loss(step: float) -> Tensor:
        moved = {**outer, "images": outer["images"] + step * direction}
        state = loop.begin(moved, data, loop.fresh(moved, data))
        if objective == "trajectory_matching":
            state = loop.run(state, moved, data)
        return task.outer_loss(state["inner"], moved, data.outer)

    carry = method.init(outer, loop.fresh(outer, data))
    slope = (method.estimate(loop, outer, data, carry).grad["images"] * direction).sum()
    # Error of order step^2; kinks of ReLU lie farther away than the step here.
    expected = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-9)


# --- how images are stored ------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_upsampling_enlarges_as_torch_does_and_begins_near_the_real_images(factor: int) -> None:
    stored = Upsampled(factor)
    images = torch.randn(3 * factor**2, 2, 8, 12, dtype=torch.float64)
    outer = stored.begin(images, torch.Generator())
    assert outer["images"].shape == (3, 2, 8, 12)  # the memory of three images
    small = avg_pool2d(images, factor)
    expected = interpolate(small, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(stored.images(outer), expected, rtol=0, atol=1e-14)


def test_smaller_images_are_four_times_as_many_in_the_same_bytes(tmp_path: Path) -> None:
    saved = {}
    for name in ("pixels", "upsampled"):
        (tmp_path / name).mkdir()
        task = task_of(build(tmp_path / name, f"task/parametrization={name}"))
        task.save_result(tmp_path / name, task.init_outer(torch.Generator()), {})
        saved[name] = np.load(tmp_path / name / "distilled.npz")
    few, many = saved["pixels"], saved["upsampled"]
    assert len(many["images"]) == 4 * len(few["images"]) == len(many["labels"])
    assert many["bytes"] == few["bytes"] == few["images"].size == many["stored"].size
    assert (many["labels"].argmax(1) == np.repeat(few["labels"].argmax(1), 4)).all()
    small = torch.from_numpy(many["stored"][0, :, :4, :4])[None]
    large = interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(many["images"][0], large[0], atol=1e-12)  # units of the data


def test_upsampling_refuses_images_that_it_cannot_divide() -> None:
    with pytest.raises(ValueError, match=r"multiples of factor=3, .* shape \[1, 8, 8\]"):
        Upsampled(3).begin(torch.zeros(9, 1, 8, 8), torch.Generator())


# --- networks -------------------------------------------------------------------------------------


def test_experts_come_with_what_they_became_a_span_later(tmp_path: Path) -> None:
    runner = build(tmp_path, "task/objective=trajectory_matching", networks="experts")
    task = task_of(runner)
    bank = {name: value[0] for name, value in task.bank.items()}
    losses = [
        cross_entropy(
            task.model.apply({n: v[age] for n, v in bank.items()}, task.train.x), task.train.y
        )
        for age in range(6)
    ]
    assert losses == sorted(losses, reverse=True)  # softmax regression, at a small step size
    data = task.sample(1, torch.Generator().manual_seed(3))
    ages = [
        next(age for age in range(6) if torch.equal(bank["head.bias"][age], bias))
        for bias in (data.init["head.bias"], data.outer["target.head.bias"])
    ]
    assert ages[1] == ages[0] + 1


def test_trajectory_matching_asks_for_experts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Use task/networks=experts"):
        build(tmp_path, "task/objective=trajectory_matching")


EXACT = ["method.linear_solver.max_steps=60", "method.linear_solver.rtol=1e-12"]


def test_adapting_the_head_alone_leaves_the_body_and_makes_cg_equal_to_long_unrolling(
    tmp_path: Path,
) -> None:
    words = ["task.adapt=head", "task.l2=0.1", "model=mlp", "model.width=5", "inner_steps=200"]
    runner = build(tmp_path, *words, "suggest.inner_lr=0.5", "method=cg", *EXACT)
    data = runner.experiment.task.sample(200, torch.Generator().manual_seed(0))
    outer, loop, method = runner.state.outer, runner.experiment.loop, runner.experiment.method
    carry = method.init(outer, loop.fresh(outer, data))
    implicit = method.estimate(loop, outer, data, carry)
    assert torch.equal(
        implicit.carry["inner"]["inner"]["hidden.0.weight"], data.init["hidden.0.weight"]
    )
    unrolled = Reverse(None, None).estimate(loop, outer, data, {"inner": carry["inner"]})
    # Strongly convex, with modulus 2 l2: gradient descent contracts by 0.9, 200 steps by 7e-10.
    for name, value in unrolled.grad.items():
        torch.testing.assert_close(implicit.grad[name], value, rtol=1e-6, atol=1e-9)


# --- augmentation ---------------------------------------------------------------------------------


def numbers(*values: float) -> Params:
    """One draw: a number for the choice among transforms, then for its amounts."""
    return {"uniform": torch.tensor([[0.0, *values, *[0.5] * (NUMBERS - 1 - len(values))]])}


@pytest.mark.parametrize(
    ("setting", "amounts", "expected"),
    [
        ({"rotate": 90.0}, (1.0,), lambda x: x.rot90(1, (2, 3))),
        ({"rotate": 90.0}, (0.5,), lambda x: x),
        ({"flip": True}, (0.1,), lambda x: x.flip(3)),
        ({"flip": True}, (0.9,), lambda x: x),
        ({"crop": 0.25}, (1.0, 0.5), lambda x: nn.functional.pad(x, (0, 0, 0, 2))[:, :, 2:]),
        ({"crop": 0.25}, (0.5, 0.0), lambda x: nn.functional.pad(x, (2, 0))[..., :-2]),
        ({"scale": 2.0}, (0.5, 0.5), lambda x: x),
        ({"color": True}, (0.75, 0.5, 0.5), lambda x: x + 0.25),
        ({"color": True}, (0.5, 0.0, 0.5), lambda x: x.mean(1, keepdim=True).expand_as(x)),
    ],
)
def test_transforms_are_what_torch_makes_of_whole_pixels(
    setting: dict[str, Any], amounts: tuple[float, ...], expected: Any
) -> None:
    x = torch.randn(2, 3, 8, 8)
    found = Siamese(**{**NEUTRAL, **setting})(x, numbers(*amounts))
    torch.testing.assert_close(found, expected(x))


def test_cutout_erases_a_square() -> None:
    erased = Siamese(**{**NEUTRAL, "cutout": 0.5})(torch.ones(1, 1, 8, 8), numbers(0.5, 0.5)) == 0
    assert erased.sum() == 16
    assert erased[0, 0, 2:6, 2:6].all()


PUBLISHED = Siamese(color=True, crop=0.125, cutout=0.5, flip=True, scale=1.2, rotate=15.0)


def test_one_draw_treats_all_images_alike_and_one_for_each_does_not() -> None:
    x = torch.randn(1, 1, 8, 8).expand(6, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    one, each = PUBLISHED.draw(1, generator), PUBLISHED.draw(6, generator)
    alike = PUBLISHED(x, one)
    torch.testing.assert_close(alike, alike[:1].expand_as(alike))
    singles = [PUBLISHED(x[:1], {"uniform": row[None]}) for row in each["uniform"]]
    torch.testing.assert_close(PUBLISHED(x, each), torch.cat(singles))


@pytest.mark.parametrize("choice", range(6))
def test_an_augmentation_is_mapped_and_differentiated_twice_and_forwards(choice: int) -> None:
    drawn = PUBLISHED.draw(1, torch.Generator().manual_seed(choice))
    drawn["uniform"][0, 0] = (choice + 0.5) / 6

    def squared(x: Tensor) -> Tensor:
        return PUBLISHED(x, drawn).square().sum()

    x, direction = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    slope = autodiff.grad(squared)
    second = autodiff.grad(lambda x: (slope(x) * direction).sum())(x)
    # Quadratic but for a constant, so that differences of slopes are exact.
    torch.testing.assert_close(second, slope(x + direction) - slope(x))
    forwards = autodiff.jacfwd(lambda t: squared(x + t * direction))(torch.zeros(()))
    torch.testing.assert_close(forwards, (slope(x) * direction).sum())
    rows = torch.rand(3, 1, NUMBERS)
    mapped = autodiff.vmap(lambda row: PUBLISHED(x, {"uniform": row}))(rows)
    torch.testing.assert_close(
        mapped, torch.stack([PUBLISHED(x, {"uniform": row}) for row in rows])
    )


def test_an_augmentation_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a transform"):
        Siamese(**NEUTRAL)
    with pytest.raises(ValueError, match="scale >= 1"):
        Siamese(**{**NEUTRAL, "scale": 0.5})


# --- what becomes of the images -------------------------------------------------------------------


def test_features_are_what_the_last_layer_is_given() -> None:
    for module in (ConvNet(4, 2, (1, 8, 8), 3), Mlp(5, 2, "relu", (1, 8, 8), 3)):
        network, params = model(module)
        x = torch.randn(2, 1, 8, 8)
        logits = network.features(params, x) @ params["head.weight"].mT + params["head.bias"]
        torch.testing.assert_close(logits, network.apply(params, x))


def test_a_model_without_a_head_has_no_features() -> None:
    with pytest.raises(ValueError, match="`head`"):
        functional(lambda: nn.Linear(2, 2)).features({}, torch.zeros(1, 2))


def test_the_projection_onto_the_simplex_makes_an_obtuse_angle_with_every_vertex() -> None:
    rows = 3 * torch.randn(20, 5)
    near = onto_simplex(rows)
    assert (near >= 0).all()
    torch.testing.assert_close(near.sum(1), torch.ones(20))
    # Necessary and sufficient for the nearest point of a convex set: (x - p) . (q - p) <= 0.
    angles = ((rows - near)[:, None] * (torch.eye(5) - near[:, None])).sum(2)
    assert (angles < 1e-12).all()


@pytest.mark.gpu
def test_a_gpu_that_is_told_to_repeat_itself_projects_as_a_cpu_does() -> None:
    rows = 3 * torch.randn(20, 5)
    torch.use_deterministic_algorithms(True)
    try:
        found = onto_simplex(rows.cuda())
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found.cpu(), onto_simplex(rows), rtol=1e-12, atol=1e-14)


def test_real_images_of_the_batch_are_of_their_class_and_soft_labels_stay_on_the_simplex(
    tmp_path: Path,
) -> None:
    runner = build(tmp_path, "task.learn_labels=true", "outer_steps=3", "optimizer.lr=1.0")
    task = task_of(runner)
    data = task.sample(1, torch.Generator().manual_seed(0))
    for images, label in zip(data.outer["x"], data.outer["y"][:, 0].argmax(1), strict=True):
        of_class = task.train.x[task.train.y == label]
        assert all(any(torch.equal(image, one) for one in of_class) for image in images)
    runner.run()
    labels = runner.state.outer["labels"]
    assert not torch.equal(labels, task.labels)
    torch.testing.assert_close(labels.sum(1), torch.ones(10))


def test_one_image_of_no_class_has_a_label_that_begins_uniform(tmp_path: Path) -> None:
    steps = ["optimizer.lr=0.3", "outer_steps=2", "solver.lr=0.1"]
    runner = build(tmp_path, "task.per_class=null", *ONE, *steps)
    assert {name: list(value.shape) for name, value in runner.state.outer.items()} == {
        "images": [1, 1, 8, 8],
        "labels": [1, 10],
    }
    torch.testing.assert_close(runner.state.outer["labels"], torch.full((1, 10), 0.1))
    runner.run()
    task, inner = task_of(runner), runner.state.carry["inner"]["inner"]
    assert [path.name for path in task.save_result(tmp_path, runner.state.outer, inner)] == [
        "distilled.npz",
        "distilled.png",
    ]
    assert runner.state.outer["labels"].sum() == pytest.approx(1)
    assert runner.state.outer["labels"].std() > 0.01


def test_images_are_saved_in_the_units_of_the_data(tmp_path: Path) -> None:
    runner = build(tmp_path, "task.per_class=2", "solver=gd_learned_lr")
    files = runner.result()
    assert [path.name for path in files] == ["distilled.npz", "distilled.png"]
    with np.load(tmp_path / "distilled.npz") as archive:
        saved = dict(archive)
    assert saved["images"].shape == (20, 1, 8, 8)
    # They start from real images, which are sixteenths in these data.
    sixteenths = 16 * saved["images"]
    np.testing.assert_allclose(sixteenths, sixteenths.round(), atol=1e-9)
    assert saved["labels"].argmax(1).tolist() == [digit for digit in range(10) for _ in range(2)]
    assert math.isclose(math.exp(saved["log_lr"]), 0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.per_class=0"], "per_class >= 1"),
        (["task.per_class=90"], "rarest class"),
        (["task.count=1"], "either per_class or count, got per_class=1, count=1"),
        (["task.per_class=null", "task.count=1"], "Set task.learn_labels=true"),
        (["task.per_class=null", *ONE, "task/objective=distribution_matching"], "class by class"),
        (["task.batch_size=11"], "batch_size from 1 to 10"),
        (["task.l2=-1"], "l2 >= 0"),
        (["task.adapt=tail"], "The model has head.weight"),
        (["data=breast_cancer", "task/siamese=digits"], "needs images"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path, *words)


KIP = ["task/objective=kernel_ridge", "method=direct", "start=pool", "solver=momentum"]
MTT = ["task/objective=trajectory_matching", "method=tesla", "solver=gd_learned_lr"]
SLOWLY = [
    (["inner_steps=20", "suggest.inner_lr=0.1"], "fresh", 100),
    (["method=cg", "inner_steps=50", "suggest.inner_lr=0.2", "task.l2=0.001"], "fresh", 100),
    (["method=neumann", "task.adapt=head", "suggest.inner_lr=0.5", "task.l2=0.001"], "fresh", 100),
    ([*MTT, "optimizer.lr=0.02", "task.networks.momentum=0.9"], "experts", 300),
]


@pytest.mark.parametrize(
    ("words", "networks", "steps"),
    [
        ([*KIP, "optimizer.lr=0.02", "inner_steps=1"], "fresh", 150),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOWLY),
    ],
)
def test_ten_learned_digits_teach_more_than_ten_real_ones(
    words: list[str], networks: str, steps: int, tmp_path: Path
) -> None:
    sizes = ["data.train=600", "data.test=597", "task.real_per_class=32", "model.width=100"]
    sizes += ["task.retraining.steps=100", "task.retraining.lr=0.1", f"outer_steps={steps}"]
    runner = build(tmp_path, *sizes, "model=mlp", *words, networks=networks)
    task, inner = task_of(runner), runner.state.carry["inner"]["inner"]
    before = task.evaluate(runner.experiment.loop, runner.state.outer, inner)["retrained_accuracy"]
    runner.run()
    after = task.evaluate(runner.experiment.loop, runner.state.outer, inner)["retrained_accuracy"]
    assert after > before + 0.1

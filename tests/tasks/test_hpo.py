"""Hyperparameters of classifiers are what their formulas say, and are learned."""

import math
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from problems import central_difference, seeded
from runners import built
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import Learned, LearnedFraction
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Labelled, Splits, TwoClasses
from bilevel_cli.data.digits import Digits
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.models import Mlp
from bilevel_cli.runs.runner import Runner
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum, NesterovMomentum
from bilevel_cli.solvers.weight_decay import WeightDecay
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.hyperparameters.augmentation import Network, Transforms, warp
from bilevel_cli.tasks.hyperparameters.classifier import Hyperparameters
from bilevel_cli.tasks.hyperparameters.linear_model import LogisticRegression
from bilevel_cli.tasks.hyperparameters.penalties import (
    L2,
    Global,
    PerLayer,
    PerParameter,
    SmoothedL1,
)
from bilevel_cli.tasks.hyperparameters.smoothing import LabelSmoothing

CPU = torch.device("cpu")


def posed(*overrides: str) -> Any:
    """The task of those overrides, on 20 examples of breast cancer unless they say otherwise."""
    config = composed("task=hpo", "data=breast_cancer", "data.train=20", *overrides)
    given = {"device": CPU, "generator": seeded(), "data": instantiate(config.data)}
    return instantiate(config.task, **given, model=instantiate(config.model))


def runner(directory: Path, *overrides: str) -> Runner:
    return built(directory, "task=hpo", "device.dtype=float64", *overrides)


def hypergradient(task: Any, solver: Any, outer: Params, data: StepData) -> Params:
    loop = InnerLoop(task, solver, Cold())
    carry: Any = {"inner": loop.fresh(outer, data)}
    return Reverse(None, None).estimate(loop, outer, data, carry).grad


def by_differences(task: Any, solver: Any, outer: Params, data: StepData) -> Params:
    loop = InnerLoop(task, solver, Cold())

    def loss(outer: Params) -> Tensor:
        state = loop.run(loop.fresh(outer, data), outer, data)
        return task.outer_loss(state["inner"], outer, data.outer)

    return central_difference(loss, outer)


# --- penalties ------------------------------------------------------------------------------------

INNER = {"weight": torch.tensor([[0.5, -2.0], [0.0, 1.0]]), "bias": torch.tensor([3.0, -1.0])}


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        (PerParameter(), {"log_penalty.weight": (2, 2), "log_penalty.bias": (2,)}),
        (PerLayer(), {"log_penalty.weight": (), "log_penalty.bias": ()}),
        (Global(), {"log_penalty.all": ()}),
    ],
)
def test_an_l2_penalty_is_weight_decay_whatever_shares_a_weight(
    granularity: Any, shapes: dict[str, tuple[int, ...]]
) -> None:
    inner = {name: value.double() for name, value in INNER.items()}
    penalty = L2(granularity, 0.3, 1.0)
    outer = penalty.init(inner)
    assert {name: tuple(value.shape) for name, value in outer.items()} == shapes
    slope = autodiff.grad(lambda z: penalty(z, outer))(inner)
    for name, value in inner.items():
        torch.testing.assert_close(slope[name], 0.3 * value, rtol=1e-12, atol=0)
    torch.testing.assert_close(penalty(inner, outer), 0.15 * trees.dot(inner, inner))


def test_smoothed_l1_is_within_eps_of_the_absolute_value_and_flat_at_zero() -> None:
    z = torch.linspace(-2, 2, 41)
    penalty = SmoothedL1(PerParameter(), 0.1, 1.0, eps=0.01)
    gap = z.abs() - penalty.entries(z)
    assert gap.min() >= 0
    assert gap.max() <= 0.01
    outer = penalty.init({"z": z})
    slope = autodiff.grad(lambda z: penalty(z, outer))({"z": z})["z"]
    assert slope[20].abs() < 1e-6
    assert slope[0] == pytest.approx(-0.1, rel=1e-4)  # 1 - (eps / z)^2 / 2


@pytest.mark.parametrize("option", ["l2", "l1"])
def test_a_shared_weight_has_the_sum_of_the_hypergradients_of_those_it_stands_for(
    option: str,
) -> None:
    # The chain rule: d/dc F(c, ..., c) = sum_j dF/dlambda_j.
    found: dict[str, Params] = {}
    for share in ("per_parameter", "per_layer", "global"):
        task = posed(f"task/penalty={option}", f"task/penalty/granularity={share}")
        outer = task.init_outer(seeded())
        found[share] = hypergradient(task, GradientDescent(0.1), outer, task.sample(6, seeded(1)))
    each, layers, one = found["per_parameter"], found["per_layer"], found["global"]
    for name, value in layers.items():
        torch.testing.assert_close(each[name].sum(), value, rtol=1e-10, atol=1e-14)
    total = torch.stack(list(layers.values())).sum()
    torch.testing.assert_close(total, one["log_penalty.all"], rtol=1e-10, atol=1e-14)


def test_weights_are_kept_where_gradient_descent_is_stable(tmp_path: Path) -> None:
    # Steps of 5 in the logarithm would take exp(lambda) lr far beyond 2.
    run = runner(
        tmp_path,
        "data=breast_cancer",
        "data.train=20",
        "optimizer.lr=5.0",
        "inner_steps=20",
        "outer_steps=8",
    )
    run.run()
    assert max(value.max() for value in run.state.outer.values()) == 0.0  # log largest
    assert pd.read_csv(tmp_path / "eval.csv")["validation_loss"].iloc[-1] < math.log(2)


# --- label smoothing ------------------------------------------------------------------------------


def test_label_smoothing_is_that_of_torch() -> None:
    logits, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 4, (7,))
    smoothing = LabelSmoothing(0.2)
    outer = {name: value.double() for name, value in smoothing.init().items()}
    expected = cross_entropy(logits, y, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(smoothing.losses(logits, y, outer), expected, rtol=1e-7, atol=0)
    assert smoothing.values(outer)["label_smoothing"] == pytest.approx(0.2)


# --- augmentation ---------------------------------------------------------------------------------


def test_a_warp_is_torchs_grid_sample() -> None:
    images = torch.rand(5, 2, 6, 9, dtype=torch.float64)
    matrices = torch.randn(5, 2, 3, dtype=torch.float64)
    # grid_sample counts in halves of width and height.
    half = torch.tensor([4.5, 3.0], dtype=torch.float64)
    theirs = torch.cat([matrices[:, :, :2] * half, matrices[:, :, 2:]], 2) / half[:, None]
    grid = affine_grid(theirs, [5, 2, 6, 9], align_corners=False)
    expected = grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(warp(images, matrices), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0]], lambda x: x),
        ([[0, -1, 0], [1, 0, 0]], lambda x: torch.rot90(x, 1, (2, 3))),
        ([[1, 0, 0], [0, 1, 2]], lambda x: torch.cat([x[:, :, 2:], 0 * x[:, :, :2]], 2)),
    ],
    ids=["identity", "quarter turn", "two rows down"],
)
def test_a_warp_to_whole_pixels_moves_them(matrix: list[list[float]], expected: Any) -> None:
    images = torch.rand(1, 3, 5, 5)
    found = warp(images, torch.tensor([matrix], dtype=images.dtype))
    torch.testing.assert_close(found, expected(images))


def test_second_derivatives_of_transforms_are_those_of_finite_differences() -> None:
    transforms = Transforms(5.0, 0.05, 0.05, 0.05, 0.1, 0.1, 0.1, (1, 4, 5), CPU)
    outer = {n: v.double().requires_grad_() for n, v in transforms.init(seeded()).items()}
    x = torch.rand(2, 1, 4, 5, dtype=torch.float64)
    noise = torch.randn(2, *transforms.noise_shape, generator=seeded(), dtype=torch.float64)

    def augmented(*values: Tensor) -> Tensor:
        return transforms(x, dict(zip(outer, values, strict=True)), noise)

    inputs = tuple(outer.values())
    with torch.enable_grad():
        assert torch.autograd.gradcheck(augmented, inputs)
        assert torch.autograd.gradgradcheck(augmented, inputs)
    # Without random numbers there is no augmentation.
    torch.testing.assert_close(transforms(x, outer, 0 * noise), x, rtol=1e-12, atol=1e-14)


def test_magnitudes_are_standard_deviations() -> None:
    alone: Any = {"rotate": None, "translate": None, "scale": None, "shear": None}
    alone |= {"contrast": None, "brightness": None, "noise": None}
    x = torch.full((20_000, 1, 2, 2), 0.5)
    for name, size in (("brightness", 0.2), ("noise", 0.3)):
        transforms = Transforms(**{**alone, name: size}, input_shape=(1, 2, 2), device=CPU)
        noise = torch.randn(20_000, *transforms.noise_shape, generator=seeded())
        found = transforms(x, transforms.init(seeded()), noise) - x
        assert found.std() == pytest.approx(size, rel=0.03)  # 1 / sqrt(2 n), six times over
        values = transforms.values(transforms.init(seeded()))
        assert {n: round(float(v), 6) for n, v in values.items()} == {f"magnitude.{name}": size}


def test_a_network_of_zeros_augments_nothing_and_reads_its_noise() -> None:
    network = Network(partial(Mlp, 3, 1, "tanh"), 0.1, (2, 3, 3), CPU)
    outer = network.init(seeded())
    x, noise = torch.rand(4, 2, 3, 3), torch.randn(2, 4, 2, 3, 3)
    assert torch.equal(network(x, trees.zeros_like(outer), noise[0]), x)
    assert not torch.equal(network(x, outer, noise[0]), network(x, outer, noise[1]))


def test_random_numbers_of_an_augmentation_are_new_at_each_inner_step() -> None:
    task = posed("task/augmentation=network", "task.batch_size=8")
    data = task.sample(4, seeded())
    assert data.inner["noise"].shape == (4, 8, 30)
    assert data.inner["noise"].flatten(1).unique(dim=0).shape[0] == 4
    assert torch.equal(data.inner["noise"], task.sample(4, seeded()).inner["noise"])
    assert "noise" not in data.outer


# --- the task -------------------------------------------------------------------------------------

EVERYTHING = [
    ("task/penalty=l1", "task/smoothing=learned"),
    ("task/augmentation=network", "task.augmentation.network.width=2", "task.penalty=null"),
    ("data=digits", "data.train=6", "task/augmentation=transforms", "task/smoothing=learned"),
]


@pytest.mark.parametrize("overrides", EVERYTHING, ids=["penalty", "network", "transforms"])
def test_hypergradients_are_those_of_finite_differences(overrides: tuple[str, ...]) -> None:
    share = () if "task.penalty=null" in overrides else ("task/penalty/granularity=per_layer",)
    task = posed(*overrides, *share)
    outer, data = task.init_outer(seeded()), task.sample(3, seeded(1))
    found = hypergradient(task, GradientDescent(0.1), outer, data)
    for name, value in by_differences(task, GradientDescent(0.1), outer, data).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-9)


def test_forward_mode_agrees_on_transforms() -> None:
    task = posed(*EVERYTHING[2], "task/penalty/granularity=per_layer")
    outer, data = task.init_outer(seeded()), task.sample(3, seeded(1))
    loop = InnerLoop(task, GradientDescent(0.1), Cold())
    carry: Any = {"inner": loop.fresh(outer, data)}
    forward = Forward().estimate(loop, outer, data, carry).grad
    for name, value in hypergradient(task, loop.solver, outer, data).items():
        torch.testing.assert_close(forward[name], value, rtol=1e-9, atol=1e-13)


def test_the_mean_over_minibatches_is_the_full_batch() -> None:
    # 20 and 150 examples: neither divides.
    task, full = posed("task.batch_size=7", "task.outer_batch_size=40"), posed()
    outer = full.init_outer(seeded())
    inner = {name: torch.randn_like(value) for name, value in task._start.items()}
    blocks = task.inner_blocks.draw("inner", 3, seeded())
    each = [task.inner_loss(inner, outer, {n: v[k] for n, v in blocks.items()}) for k in range(3)]
    expected = full.inner_loss(inner, outer, full.sample(1, seeded()).inner_at(0))
    torch.testing.assert_close(torch.stack(each).mean(), expected, rtol=1e-10, atol=0)
    assert task.blocks == (3, 4)


def test_evaluations_are_kept_with_the_best_marked_and_survive_a_continued_run(
    tmp_path: Path,
) -> None:
    settings = ["data=breast_cancer", "data.train=20", "inner_steps=5", "eval_every=1"]
    settings.append("suggest.inner_lr=0.5")
    settings += ["task/penalty/granularity=global", "task/smoothing=learned", "save_every=1"]
    settings += ["solver=momentum_learned"]
    tables = []
    for name, parts in (("once", [6]), ("twice", [3, 6])):
        for steps in parts:
            run = runner(tmp_path / name, *settings, f"outer_steps={steps}")
            run.run()
        files = [path.name for path in run.result()]
        assert files == ["outer.pt", "hyperparameters.csv"]
        tables.append(pd.read_csv(tmp_path / name / "hyperparameters.csv"))
    table = tables[0]
    assert table["step"].tolist() == list(range(7))
    learned = ["penalty.all", "label_smoothing", "solver.lr", "solver.momentum"]
    for name, initial in zip(learned, (0.001, 0.1, 0.5, 0.9), strict=True):
        assert table[name].iloc[0] == pytest.approx(initial)
        assert table[name].nunique() == 7
    (best,) = table.index[table["best"] == 1]
    assert table["validation_loss"].iloc[best] == table["validation_loss"].min()
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), tables[1].drop(columns="seconds"))


def test_many_hyperparameters_are_summarised(tmp_path: Path) -> None:
    task = posed()
    outer = {name: torch.randn_like(value) for name, value in task.init_outer(seeded()).items()}
    loop = InnerLoop(task, GradientDescent(0.1), Cold())
    scores = task.evaluate(loop, outer, task._start)
    weights = outer["log_penalty.head.weight"].exp()
    assert scores["penalty.head.weight.min"] == weights.min()
    assert scores["penalty.head.weight.median"] == weights.median()
    assert scores["penalty.head.weight.max"] == weights.max()
    few = posed("task/penalty/granularity=per_layer")
    assert "penalty.head.bias" in few.evaluate(loop, few.init_outer(seeded()), task._start)


def test_scores_are_losses_and_accuracies_of_the_inner_iterate() -> None:
    task = posed()
    inner = {name: torch.randn_like(value) for name, value in task._start.items()}
    loop, outer = InnerLoop(task, GradientDescent(0.1), Cold()), task.init_outer(seeded())
    scores = task.evaluate(loop, outer, inner)
    x, y = task.examples["test"]["x"], task.examples["test"]["y"]
    logits = x @ inner["head.weight"].T + inner["head.bias"]
    assert scores["test_accuracy"] == (logits.argmax(1) == y).double().mean()
    log_sum = logits.logsumexp(1)
    loss = (log_sum - logits[torch.arange(len(y)), y]).mean()
    torch.testing.assert_close(scores["test_loss"], loss)
    expected = task.outer_loss(inner, outer, task.sample(1, seeded()).outer)
    torch.testing.assert_close(scores["validation_loss"], expected)


class Shifted(Digits):
    """Digits as they are for training, and moved by up to a pixel for validation."""

    def splits(self, generator: torch.Generator) -> Splits:
        train, validation, test = super().splits(generator)
        moves = torch.randint(-1, 2, (len(validation.y), 2), generator=generator).tolist()
        pairs = zip(validation.x, moves, strict=True)
        x = torch.stack([image.roll(move, (1, 2)) for image, move in pairs])
        return Splits(train, Labelled(x, validation.y, validation.index), test)


def test_translation_is_learned_where_validation_images_are_shifted() -> None:
    grown = []
    for data in (Digits(100, 200, 10), Shifted(100, 200, 10)):
        config = composed("task=augmentation", "task/augmentation=transforms")
        for name in ("rotate", "scale", "shear", "contrast", "brightness", "noise"):
            config.task.augmentation[name] = None
        model = instantiate(config.model)
        task: Hyperparameters = instantiate(
            config.task, data=data, model=model, device=CPU, generator=seeded()
        )
        outer, data_of_step = task.init_outer(seeded()), task.sample(60, seeded())
        found = hypergradient(task, GradientDescent(0.5), outer, data_of_step)
        grown.append(-float(found["log_magnitude.translate"]))
    assert grown[0] < grown[1]
    assert grown[1] > 0


def test_learned_settings_are_better_than_the_initial_ones(tmp_path: Path) -> None:
    losses = {}
    for method in ("none", "reverse"):
        run = runner(
            tmp_path / method,
            "data.train=60",
            f"method={method}",
            "outer_steps=10",
            "inner_steps=30",
            "task/smoothing=learned",
            "solver=gd_learned_lr",
        )
        losses[method] = run.run()["validation_loss"]
    assert losses["reverse"] < 0.9 * losses["none"]


# --- learned settings of the solver ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [Momentum, NesterovMomentum])
def test_learned_momentum_has_the_hypergradient_of_finite_differences(kind: Any) -> None:
    task = posed("task/penalty/granularity=global")
    solver = WeightDecay(kind(Learned("log_lr", 0.1), LearnedFraction("logit", 0.8)), 0.01)
    outer = task.init_outer(seeded()) | solver.outer_init({})
    data = task.sample(5, seeded(1))
    found = hypergradient(task, solver, outer, data)
    for name, value in by_differences(task, solver, outer, data).items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)
        assert value.abs() > 1e-6
    for name, setting in (("lr", 0.1), ("momentum", 0.8)):
        assert float(solver.settings(outer)[name]) == pytest.approx(setting)


def test_learned_momentum_takes_the_steps_of_a_given_one() -> None:
    task = posed()
    learned = Momentum(Learned("log_lr", 0.1), LearnedFraction("logit", 0.9))
    outer, data = (
        task.init_outer(seeded()) | learned.outer_init({}),
        task.sample(5, seeded(1)),
    )
    ends = []
    for solver in (learned, Momentum(0.1, 0.9)):
        loop = InnerLoop(task, solver, Cold())
        ends.append(loop.run(loop.fresh(outer, data), outer, data)["inner"])
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-10, atol=1e-14)


# --- refusals -------------------------------------------------------------------------------------


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="L2 needs 0 < initial <= largest < infinity, got init"):
        L2(Global(), 2.0, 1.0)
    with pytest.raises(ValueError, match="SmoothedL1 needs a finite eps > 0, got eps=0"):
        SmoothedL1(Global(), 0.1, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"LabelSmoothing needs initial in \(0, 1\), got init"):
        LabelSmoothing(1.0)
    with pytest.raises(ValueError, match=r"A learned fraction needs initial in \(0, 1\), got m"):
        LearnedFraction("m", 1.0)
    with pytest.raises(ValueError, match="Transforms needs finite magnitudes > 0, at least one"):
        Transforms(None, None, None, None, None, None, None, (1, 2, 2), CPU)
    with pytest.raises(ValueError, match="got rotate=-1"):
        Transforms(-1.0, None, None, None, None, None, 0.1, (1, 2, 2), CPU)
    with pytest.raises(ValueError, match="Network needs a finite scale > 0, got scale=inf"):
        Network(Mlp, math.inf, (3,), CPU)
    with pytest.raises(InstantiationException, match="Use task/augmentation=network"):
        posed("task/augmentation=transforms")
    with pytest.raises(InstantiationException, match="Hyperparameters needs batch_size from 1 to"):
        posed("task.batch_size=21")


def test_a_run_without_anything_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A run needs outer parameters"):
        runner(tmp_path, "data=breast_cancer", "task.penalty=null")


class Tables(TwoClasses):
    """Rows and labels as given."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(2, 2, 2)
        self.labelled = Labelled(x, y, torch.arange(len(y)))

    def read(self) -> tuple[Labelled, Labelled | None]:
        return self.labelled, None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(6, 3), torch.tensor([0, 1, 2] * 2), "needs two classes, labels 0 and 1, got 2"),
        (torch.rand(6, 1, 2, 2), torch.tensor([0, 1] * 3), r"rows of a table, got .* \[1, 2, 2\]"),
    ],
)
def test_logistic_regression_refuses_what_is_no_table_of_two_classes(
    x: Tensor, y: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LogisticRegression("zeros", None, None, Tables(x, y), CPU, seeded())


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("optuna"), reason="needs optuna")
def test_optuna_searches_on_the_validation_loss(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bilevel_cli", "experiment=hpo_tpe"]
    command += ["hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", "data.train=20"]
    subprocess.run([*command, f"hydra.sweep.dir={tmp_path}", "inner_steps=5"], check=True)
    losses = [pd.read_csv(path)["validation_loss"].iloc[-1] for path in tmp_path.glob("*/eval.csv")]
    best = (tmp_path / "optimization_results.yaml").read_text()
    assert len(losses) == 4
    assert f"best_value: {min(losses)}" in best

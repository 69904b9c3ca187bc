"""What is special to each task."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from problems import central_difference
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.random import Stream
from bilevel_cli.core.sets import Box
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Classes, ClassSplits, Examples, Labelled, Splits
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.models import Conv4, Linear
from bilevel_cli.runs import entry
from bilevel_cli.runs.runner import Runner
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.projected import Projected
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.tasks.examples.iaptt_toy import SOLUTION, Toy
from bilevel_cli.tasks.examples.simulated import SimulatedQuadratics
from bilevel_cli.tasks.few_shot.classification import FewShot
from bilevel_cli.tasks.reweighting.hyper_cleaning import HyperCleaning
from bilevel_cli.tasks.reweighting.noise import Symmetric, Uniform
from bilevel_cli.tasks.reweighting.scores import cleaning_scores
from bilevel_cli.tasks.reweighting.weights import Sigmoid

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(directory: Path, *overrides: str) -> Runner:
    config = composed("device=cpu", *overrides)
    return entry.build(config, entry.resolved(config), directory, {})


# --- toy ------------------------------------------------------------------------------------------


def test_the_solution_of_the_toy_is_stationary_for_the_follower_and_the_best_reply() -> None:
    toy = Toy([1.0, 2.0], 40, CPU)
    outer, inner = {"x": torch.tensor(SOLUTION)}, {"y": torch.tensor(-2.0)}
    slope = autodiff.grad(toy.inner_loss)(inner, outer, {})
    torch.testing.assert_close(slope["y"], torch.tensor(0.0), rtol=0, atol=1e-13)
    # f = -1, its least value; so y = -2 is a minimiser, and F = -11 pi / 4.
    assert toy.inner_loss(inner, outer, {}) == -1
    torch.testing.assert_close(toy.outer_loss(inner, outer, {}), torch.tensor(-11 * math.pi / 4))


def test_the_toy_keeps_x_and_the_learned_start_in_their_bounds() -> None:
    toy = Toy([1.0, 2.0], 40, CPU)
    outer = {"x": torch.tensor(0.0), "init.y": torch.tensor(3.0), "other": torch.tensor(99.0)}
    assert toy.project_outer(outer) == {"x": 1.0, "init.y": 2.0, "other": 99.0}


STARTS = [("[1.0,2.0]", 304), ("[5.0,1.0]", 241), ("[7.0,-1.0]", 15)]


@pytest.mark.parametrize(("start", "first"), STARTS)
def test_iaptt_solves_the_toy_with_the_released_settings(
    start: str, first: int, tmp_path: Path
) -> None:
    build(tmp_path, "task=toy", "method=iaptt", f"task.start={start}", "eval_every=1").run()
    scores = pd.read_csv(tmp_path / "eval.csv").set_index("step")
    final = scores.loc[399]
    assert final["relative_error_f"] <= 0.01
    assert final["relative_error_x"] <= 0.015
    # Independently recomputed with exact forward-mode derivatives: 304, 241 and 15 (+- 15).
    solved = (scores["relative_error_f"] < 0.02) & (scores["relative_error_x"] < 0.02)
    assert abs(int(str(solved.idxmax())) - first) <= 15
    if start == "[1.0,2.0]":  # held up at the local solution, 7 pi / 4
        plateau = scores["relative_error_f"].loc[110:250]
        assert (plateau - 4 / 11).abs().max() <= 0.005


@pytest.mark.parametrize(
    ("start", "f", "x"), [("[1.0,2.0]", 1.346, 0.884), ("[5.0,1.0]", 1.233, 0.884)]
)
def test_reverse_mode_is_stuck_on_the_toy(start: str, f: float, x: float, tmp_path: Path) -> None:
    build(tmp_path, "task=toy", "method=reverse", f"task.start={start}").run()
    final = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert final["relative_error_f"] == pytest.approx(f, abs=0.01)
    assert final["relative_error_x"] == pytest.approx(x, abs=0.001)


@pytest.mark.slow
def test_a_hundred_steps_separate_truncation_from_none(tmp_path: Path) -> None:
    toy = ["task=toy", "task.start=[7.0,-1.0]", "inner_steps=100", "start=learned"]
    for method in ("iaptt", "reverse"):
        build(tmp_path / method, *toy, f"method={method}").directory.mkdir()
        build(tmp_path / method, *toy, f"method={method}").run()
    errors = {
        method: pd.read_csv(tmp_path / method / "eval.csv")["relative_error_f"].iloc[-1]
        for method in ("iaptt", "reverse")
    }
    assert errors["iaptt"] < 0.015
    assert 0.355 < errors["reverse"] < 0.375


@pytest.mark.slow
@pytest.mark.parametrize("start", ["[1.0,2.0]", "[5.0,1.0]"])
def test_a_hundred_steps_stay_at_the_local_solution(start: str, tmp_path: Path) -> None:
    build(tmp_path, "task=toy", "method=iaptt", f"task.start={start}", "inner_steps=100").run()
    final = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert final["relative_error_f"] == pytest.approx(4 / 11, abs=0.01)


def test_the_projected_toy_has_no_derivative_where_the_follower_is_clipped() -> None:
    toy = Toy([SOLUTION, -2.0], 40, CPU)
    loop = InnerLoop(toy, Projected(GradientDescent(0.5), Box(-2.0, 2.0)), Learned())
    data = toy.sample(3, generator())
    outer = {"x": torch.tensor(9.0), "init.y": torch.tensor(-1.9)}
    found = Iaptt().estimate(loop, outer, data, {"inner": loop.fresh(outer, data)})
    assert found.grad["init.y"].isfinite()


# --- reweight -------------------------------------------------------------------------------------


class Blobs(Examples):
    """Three clusters in the plane."""

    num_classes = 3

    def read(self) -> tuple[Labelled, None]:
        y = torch.arange(300) % 3
        centres = 4 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
        x = centres[y] + torch.randn(300, 2, generator=generator())
        return Labelled(x, y, torch.arange(300) + 1000), None


def cleaning(seed: int = 0, **changes: Any) -> HyperCleaning:
    settings: dict[str, Any] = {
        "noise": Symmetric(0.5),
        "weights": Sigmoid(0.0),
        "folds": None,
        "batch_size": None,
        "outer_batch_size": None,
        "l2": 0.0,
        **changes,
    }
    data, model = Blobs(100, 100, 100), Linear
    return HyperCleaning(**settings, data=data, model=model, device=CPU, generator=generator(seed))


@pytest.mark.parametrize("noise", [0.0, 0.25, 0.5, 0.9])
def test_symmetric_noise_changes_exactly_its_share_and_leaves_no_flagged_label_right(
    noise: float,
) -> None:
    # Defect elsewhere: drawn among all ten classes, 10.3 % of the "dirty" labels are right.
    clean = torch.randint(10, (5000,), generator=generator(1))
    noisy, flag = Symmetric(noise).corrupt(clean, 10, generator())
    assert int(flag.sum()) == round(noise * 5000)
    assert torch.equal(noisy != clean, flag)
    again, same_flag = Symmetric(noise).corrupt(clean, 10, generator())
    assert torch.equal(noisy, again)
    assert torch.equal(flag, same_flag)


def test_symmetric_noise_reaches_every_other_class_alike() -> None:
    zeros = torch.zeros(90_000, dtype=torch.long)
    noisy, flag = Symmetric(0.999).corrupt(zeros, 10, generator())
    counts = torch.bincount(noisy[flag], minlength=10).double()
    assert counts[0] == 0
    # Binomial: standard deviation 94 around 9990.
    assert (counts[1:] - 9990).abs().max() < 5 * 94


def test_uniform_noise_draws_among_all_classes_and_flags_what_is_wrong() -> None:
    clean = torch.randint(10, (100_000,), generator=generator(1))
    noisy, flag = Uniform(0.9).corrupt(clean, 10, generator())
    assert torch.equal(flag, noisy != clean)
    # A tenth of the 90 % drawn anew is right by chance: 81 % are wrong; standard deviation 124.
    assert abs(int(flag.sum()) - 81_000) < 5 * 124
    # Every wrong class alike: 9000 each, standard deviation 90.
    shifts = ((noisy - clean) % 10)[flag].bincount(minlength=10)
    assert shifts[0] == 0
    assert (shifts[1:] - 9000).abs().max() < 5 * 91
    assert torch.equal(Uniform(0.0).corrupt(clean, 10, generator())[0], clean)
    task = cleaning(noise=Uniform(0.9))
    assert task.flag is not None
    assert f"{int(task.flag.sum())} of them with a wrong label" in task.statement


def test_the_seed_decides_split_noise_and_start() -> None:
    one, same, other = cleaning(seed=0), cleaning(seed=0), cleaning(seed=1)
    assert torch.equal(one.train.index, same.train.index)
    assert torch.equal(one.train.y, same.train.y)
    assert not torch.equal(one.train.index, other.train.index)


def test_the_gradient_of_a_weight_is_its_own_loss() -> None:
    task = cleaning()
    data = task.sample(1, generator())
    outer = task.init_outer(generator())
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    slope = autodiff.grad(task.inner_loss, 1)(inner, outer, data.inner_at(0))["weight_logits"]
    logits = task.model.apply(inner, task.train.x)
    losses = torch.nn.functional.cross_entropy(logits, task.train.y, reduction="none")
    # d/dlambda_i of mean_i sigmoid(lambda_i) CE_i, at lambda = 0.
    torch.testing.assert_close(slope, 0.25 * losses / 100)


def test_the_penalty_of_the_classifier_is_not_halved_and_weights_begin_where_they_are_set() -> None:
    plain, task = cleaning(), cleaning(l2=0.2, weights=Sigmoid(-2.0))
    outer, data = task.init_outer(generator()), task.sample(1, generator())
    assert outer["weight_logits"].tolist() == [-2.0] * 100
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    batch = data.inner_at(0)
    penalty = 0.2 * sum(value.square().sum() for value in inner.values())
    difference = task.inner_loss(inner, outer, batch) - plain.inner_loss(inner, outer, batch)
    torch.testing.assert_close(difference, torch.as_tensor(penalty), rtol=1e-10, atol=0)
    assert task.outer_loss(inner, outer, data.outer) == plain.outer_loss(inner, outer, data.outer)


def test_full_batches_of_cleaning_are_plain_means_bit_for_bit() -> None:
    task = cleaning()
    assert task.blocks == (1, 1)
    outer, data = task.init_outer(generator()), task.sample(1, generator())
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    losses = torch.nn.functional.cross_entropy(
        task.model.apply(inner, task.train.x), task.train.y, reduction="none"
    )
    assert task.inner_loss(inner, outer, data.inner_at(0)) == (0.5 * losses).mean()
    logits = task.model.apply(inner, task.validation.x)
    expected = torch.nn.functional.cross_entropy(logits, task.validation.y)
    assert task.outer_loss(inner, outer, data.outer) == expected


def mean_over_blocks(task: Any, inner: Any, outer: Any) -> tuple[Tensor, Tensor]:
    """Both losses, averaged over one epoch of blocks."""
    sums = [torch.zeros(()), torch.zeros(())]
    source, (inner_count, outer_count) = Stream(), task.blocks
    seen: tuple[set[int], set[int]] = (set(), set())
    for _ in range(inner_count * outer_count):
        data = task.sample(1, source)
        sums[0] += task.inner_loss(inner, outer, data.inner_at(0))
        sums[1] += task.outer_loss(inner, outer, data.outer)
        seen[0].add(int(data.inner["block"][0]))
        seen[1].add(int(data.outer["block"]))
    assert tuple(map(len, seen)) == task.blocks
    return sums[0] / (inner_count * outer_count), sums[1] / (inner_count * outer_count)


def test_the_mean_over_minibatches_of_cleaning_is_the_full_batch() -> None:
    # 7 and 30 do not divide the 100 examples.
    task, full = cleaning(batch_size=7, outer_batch_size=30), cleaning()
    assert task.blocks == (15, 4)
    data = full.sample(1, generator())
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    outer = {"weight_logits": torch.randn(100)}
    f, F = mean_over_blocks(task, inner, outer)
    torch.testing.assert_close(
        f, full.inner_loss(inner, outer, data.inner_at(0)), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(F, full.outer_loss(inner, outer, data.outer), rtol=1e-12, atol=0)


class Untested(Blobs):
    def splits(self, generator: torch.Generator) -> Splits:
        train, validation, test = super().splits(generator)
        return Splits(train, validation, test.take(torch.arange(0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 101}, "HyperCleaning needs batch_size from 1 to 100, all its examples"),
        ({"outer_batch_size": 0}, "needs outer_batch_size from 1 to 100, .*outer_batch_size=null"),
        ({"l2": -0.1}, "HyperCleaning needs a finite l2 >= 0, got l2=-0.1"),
        ({"folds": 1}, "needs folds from 2 to 300, all its examples, got folds=1"),
    ],
)
def test_an_impossible_cleaning_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cleaning(**changes)


def test_cleaning_needs_test_examples() -> None:
    with pytest.raises(ValueError, match="HyperCleaning needs test examples, got none"):
        HyperCleaning(
            *(Symmetric(0.5), Sigmoid(0.0), None, None, None, 0.0, Untested(9, 9, 9), Linear),
            *(CPU, generator()),
        )


def test_a_minibatch_knows_its_rows_and_a_pass_has_each_once() -> None:
    task = cleaning(batch_size=20)
    batch = task.sample(10, generator()).inner
    for one_pass in batch["index"].reshape(2, 100):
        assert torch.equal(one_pass.sort().values, torch.arange(100))
    assert torch.equal(batch["y"], task.train.y[batch["index"]])
    assert torch.equal(batch["x"], task.train.x[batch["index"]])


def test_a_full_batch_costs_no_memory_for_its_repetitions() -> None:
    batch = cleaning().sample(1000, generator()).inner
    assert all(value.stride(0) == 0 for value in batch.values())


def test_cleaning_scores_have_their_floor_and_ceiling() -> None:
    flag = torch.arange(100) < 50
    everything = cleaning_scores(torch.ones(100, dtype=torch.bool), flag)
    assert everything == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert cleaning_scores(~flag, flag) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert cleaning_scores(torch.zeros(100, dtype=torch.bool), flag)["f1"] == 0


def test_cleaning_finds_the_flipped_digits(tmp_path: Path) -> None:
    run = build(tmp_path, "task=reweight", "outer_steps=40", "eval_every=40")
    run.run()
    scores = pd.read_csv(tmp_path / "eval.csv")
    assert scores["f1"].iloc[0] == pytest.approx(2 / 3)
    assert scores["f1"].iloc[-1] > 0.9
    (path,) = run.result()
    weights = pd.read_csv(path)
    assert weights.columns.tolist() == ["index", "weight", "label", "flag", "suggested"]
    assert weights["weight"].is_monotonic_increasing
    assert weights["flag"].sum() == 300
    assert weights["flag"].iloc[:100].mean() > 0.95  # the most suspicious come first
    assert weights["index"].is_unique


# --- hpo ------------------------------------------------------------------------------------------

KINDS = ["logistic", "ridge"]


def penalties(option: str, **changes: Any) -> Any:
    """The task of that option, on the data that it suggests."""
    config = composed(f"task={option}", *(f"task.{name}={v}" for name, v in changes.items()))
    given = {"device": CPU, "generator": generator(), "data": instantiate(config.data)}
    return instantiate(config.task, **given)


def somewhere(task: Any) -> tuple[Params, Params]:
    count = task.sample(1, generator()).init["weight"].shape
    return {"weight": torch.randn(count)}, {"log_l2": 0.5 * torch.randn(count) - 2}


@pytest.mark.parametrize("option", KINDS)
def test_the_losses_of_linear_models_are_their_formulas(option: str) -> None:
    task = penalties(option)
    (inner, outer), data = somewhere(task), task.sample(1, generator())
    w, l2 = inner["weight"], outer["log_l2"].exp()

    def formula(batch: Any) -> Tensor:
        x, y = batch["x"], batch["y"]
        if option == "ridge":
            return 0.5 * ((x @ w - y) ** 2).mean()
        assert y.unique().tolist() == [-1, 1]
        return torch.log(1 + torch.exp(-y * (x @ w))).mean()

    penalty = 0.5 * (l2 * w**2).sum()
    found = task.inner_loss(inner, outer, data.inner_at(0))
    torch.testing.assert_close(found, formula(data.inner_at(0)) + penalty, rtol=1e-12, atol=0)
    found = task.outer_loss(inner, outer, data.outer)
    torch.testing.assert_close(found, formula(data.outer), rtol=1e-12, atol=0)


@pytest.mark.parametrize("option", KINDS)
def test_newton_finds_where_the_inner_gradient_vanishes(option: str) -> None:
    task = penalties(option)
    _, outer = somewhere(task)
    for log_l2 in (outer["log_l2"], outer["log_l2"] - 8, torch.zeros_like(outer["log_l2"])):
        outer = {"log_l2": log_l2}
        batch = task.sample(1, generator()).inner_at(0)
        best, hessian = task.solve(log_l2.exp(), batch)
        slope = autodiff.grad(task.inner_loss)({"weight": best}, outer, batch)["weight"]
        assert slope.norm() < 1e-7
        # The Hessian by central differences of the gradient: error of order 1e-10.
        columns = [
            autodiff.grad(task.inner_loss)({"weight": best + step}, outer, batch)["weight"]
            - autodiff.grad(task.inner_loss)({"weight": best - step}, outer, batch)["weight"]
            for step in 1e-5 * torch.eye(len(best))
        ]
        torch.testing.assert_close(torch.stack(columns) / 2e-5, hessian, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("option", [*KINDS, "simulated"])
def test_the_scores_are_those_of_the_solution_that_claims_find(option: str) -> None:
    if option == "simulated":
        task: Any = simulated(batch_size=None, outer_batch_size=None)
        inner, outer = {"z": torch.randn(6)}, {"x": torch.randn(3)}
    else:
        task = penalties(option)
        inner, outer = somewhere(task)
    loop, data = InnerLoop(task, GradientDescent(0.1), Cold()), task.sample(1, generator())
    trial = Trial(loop, outer, data, {"inner": loop.fresh(outer, data)}, inner)
    best, exact = references.minimiser(trial), references.solution(trial)
    scores = task.evaluate(loop, outer, inner)
    # Dense matrices of central differences, whose error is of order 1e-9.
    value = task.outer_loss(best, outer, data.outer)
    torch.testing.assert_close(scores["value"], value, rtol=1e-7, atol=0)
    norm2 = trees.dot(exact, exact)
    torch.testing.assert_close(scores["hypergradient_norm2"], norm2, rtol=1e-6, atol=0)
    gap = trees.axpy(-1.0, best, inner)
    torch.testing.assert_close(scores["inner_distance2"], trees.dot(gap, gap), rtol=1e-6, atol=0)

    def value_function(outer: Params) -> Tensor:
        return task.evaluate(loop, outer, inner)["value"]

    slope = central_difference(value_function, outer, 1e-4)
    torch.testing.assert_close(slope, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("option", KINDS)
def test_the_mean_over_minibatches_of_a_linear_model_is_the_full_batch(option: str) -> None:
    # Neither divides: 200 and 150 examples of breast_cancer, 150 and 150 of diabetes.
    task, full = penalties(option, batch_size=40, outer_batch_size=64), penalties(option)
    if option == "ridge":
        assert task.blocks == (4, 3)
    assert full.blocks == (1, 1)
    (inner, outer), data = somewhere(task), full.sample(1, generator())
    f, F = mean_over_blocks(task, inner, outer)
    expected = full.inner_loss(inner, outer, data.inner_at(0))
    torch.testing.assert_close(f, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(F, full.outer_loss(inner, outer, data.outer), rtol=1e-12, atol=0)
    # The scores are of all examples, whatever the minibatches.
    loop = InnerLoop(task, GradientDescent(0.1), Cold())
    assert task.evaluate(loop, outer, inner) == full.evaluate(loop, outer, inner)


def test_scores_of_the_inner_iterate_are_losses_and_accuracies() -> None:
    task = penalties("logistic")
    inner, outer = somewhere(task)
    scores = task.evaluate(InnerLoop(task, GradientDescent(0.1), Cold()), outer, inner)
    for part in ("validation", "test"):
        x, y = task.examples[part]["x"], task.examples[part]["y"]
        right = ((x @ inner["weight"] >= 0).double() * 2 - 1 == y).double().mean()
        assert scores[f"{part}_accuracy"] == right
    assert scores["validation_loss"] == task.outer_loss(
        inner, outer, task.sample(1, generator()).outer
    )
    assert "test_accuracy" not in penalties("ridge").evaluate(
        InnerLoop(task, GradientDescent(0.1), Cold()), *reversed(somewhere(penalties("ridge")))
    )


def test_a_linear_model_starts_at_zero_or_at_random() -> None:
    task = penalties("logistic")
    assert not task.init_outer(generator())["log_l2"].any()
    assert not task.sample(1, generator()).init["weight"].any()
    task, again = penalties("logistic", start="random"), penalties("logistic", start="random")
    weight = task.sample(1, generator()).init["weight"]
    assert torch.equal(weight, again.sample(1, generator(5)).init["weight"])
    assert 0.5 < weight.std() < 1.5
    l2 = task.init_outer(generator())["log_l2"].exp()
    assert 0 < l2.min() < l2.max() < 1
    with pytest.raises(InstantiationException, match="start to be one of zeros, random, got s"):
        penalties("logistic", start="sideways")
    with pytest.raises(InstantiationException, match="RidgeRegression needs batch_size from 1 to"):
        penalties("ridge", batch_size=151)


def test_the_penalties_are_written_with_the_weights(tmp_path: Path) -> None:
    task = penalties("ridge")
    inner, outer = somewhere(task)
    (path,) = task.save_result(tmp_path, outer, inner)
    table = pd.read_csv(path)
    assert path.name == "hyperparameters.csv"
    assert table.columns.tolist() == ["feature", "log_l2", "l2", "weight"]
    assert table["feature"].tolist() == list(range(10))
    assert table["l2"].tolist() == pytest.approx(outer["log_l2"].exp().tolist(), rel=1e-12)
    assert table["weight"].tolist() == pytest.approx(inner["weight"].tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ("logistic", "diabetes", "Use data=breast_cancer, data=ijcnn1."),
        ("logistic", "digits", "Use data=breast_cancer, data=ijcnn1."),
        ("ridge", "breast_cancer", "Use data=diabetes."),
        ("reweight", "diabetes", "task=reweight needs other data than data=diabetes. Use data="),
    ],
)
def test_data_of_another_kind_are_refused_with_those_that_fit(
    task: str, data: str, message: str, tmp_path: Path
) -> None:
    config = composed(f"task={task}", f"data={data}")
    with pytest.raises(UsageError, match=message):
        entry.build(config, entry.resolved(config), tmp_path, {"task": task, "data": data})


# Ridge regression is well-conditioned where its outer loss is least. Logistic regression is not,
# and 50 steps of reverse mode are then the hypergradient of a coarser problem.
@pytest.mark.parametrize(
    ("task", "method", "factor"),
    [("ridge", "reverse", 100), ("ridge", "cg", 100), ("logistic", "cg", 100)],
)
def test_the_suggested_settings_solve_a_linear_model(
    task: str, method: str, factor: float, tmp_path: Path
) -> None:
    build(tmp_path, f"task={task}", f"method={method}").run()
    scores = pd.read_csv(tmp_path / "eval.csv")
    norm2, value = scores["hypergradient_norm2"], scores["value"]
    assert norm2.iloc[-1] < norm2.iloc[0] / factor
    assert value.iloc[-1] < value.iloc[0]


# --- simulated ------------------------------------------------------------------------------------


def simulated(seed: int = 0, **changes: Any) -> SimulatedQuadratics:
    settings: dict[str, Any] = {
        "inner_samples": 60,
        "outer_samples": 50,
        "inner_dim": 6,
        "outer_dim": 3,
        "L_cross": 0.1,
        "mu": 0.1,
        "batch_size": 8,
        "outer_batch_size": 7,
        **changes,
    }
    return SimulatedQuadratics(**settings, device=CPU, generator=generator(seed))


def test_simulated_samples_have_the_moments_that_they_are_drawn_with() -> None:
    task = simulated(inner_samples=400_000, L_cross=0.4, batch_size=None)
    f = task.f
    log = torch.logspace(-1, 0, 6)
    # Entries of a mean of n products of numbers of order one: standard deviation 1 / sqrt(n).
    atol = 5 / 400_000**0.5
    torch.testing.assert_close(torch.linalg.eigvalsh(f.A), log, rtol=0, atol=3 * atol)
    outer = torch.linalg.eigvalsh(f.D)
    expected = torch.tensor([0.0, 0.1, 1.0])
    torch.testing.assert_close(outer, expected, rtol=0, atol=3 * atol)
    # From mu to L_cross evenly in logarithms; the largest first.
    singular = torch.linalg.svdvals(f.C)
    torch.testing.assert_close(singular, torch.tensor([0.4, 0.2, 0.1]), rtol=0, atol=5 * atol)
    assert f.a.abs().max() < atol
    assert f.d.abs().max() < atol


def test_the_mean_over_minibatches_of_simulated_samples_is_their_closed_form() -> None:
    task = simulated()
    assert task.blocks == (8, 8)
    z, x = torch.randn(6), torch.randn(3)
    f, F = mean_over_blocks(task, {"z": z}, {"x": x})
    torch.testing.assert_close(f, task.f.value(z, x), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(F, task.F.value(z, x), rtol=1e-11, atol=1e-13)
    assert simulated(batch_size=None, outer_batch_size=None).blocks == (1, 1)


def test_simulated_problems_begin_as_published_and_are_convex() -> None:
    task = simulated()
    assert task.init_outer(generator())["x"].tolist() == [-2, -2, -2]
    assert task.sample(1, generator()).init["z"].tolist() == [0] * 6
    # The value function lies above its tangents.
    for _ in range(20):
        x, other = torch.randn(3), torch.randn(3)
        rise = task.F.value(task.solution(other), other) - task.F.value(task.solution(x), x)
        assert rise >= task.hypergradient(x) @ (other - x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_dim": 0}, "SimulatedQuadratics needs inner_dim >= 1, got inner_dim=0"),
        ({"inner_samples": 5}, "needs inner_samples >= 6, got inner_samples=5"),
        ({"mu": 0.0}, r"SimulatedQuadratics needs mu in \(0, 1\], got mu=0.0"),
        ({"L_cross": -1.0}, "needs a finite L_cross > 0, got L_cross=-1.0"),
        ({"batch_size": 61}, "needs batch_size from 1 to 60"),
        ({"outer_samples": 1, "L_cross": 50.0, "outer_batch_size": 1}, "drew none in 20 problems"),
    ],
)
def test_an_impossible_simulation_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulated(**changes)


# --- meta -----------------------------------------------------------------------------------------


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
    return FewShot(**settings, data=Bars(), model=model, device=CPU, generator=generator())


def test_an_episode_has_its_classes_shots_and_labels_and_no_image_twice() -> None:
    task = few_shot()
    data = task.sample(7, generator())
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
        pixels = (task.draw(part, 20, 1, generator()).outer["x"] * 255).round().int()
        assert set((pixels // 20).flatten().tolist()) == set(allowed)


def test_the_split_of_parameters_between_the_levels() -> None:
    everything = few_shot().init_outer(generator())
    assert all(name.startswith("init.") for name in everything)
    task = few_shot(adapt="head")
    outer = task.init_outer(generator())
    assert {name for name in outer if name.startswith("init.")} == {
        "init.head.weight",
        "init.head.bias",
    }
    assert set(task.init_inner(outer, task.sample(1, generator()))) == {"head.weight", "head.bias"}
    assert "shared.features.0.weight" in outer
    assert trees.size(outer) == trees.size(everything)


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_the_start_does_not_matter_where_the_task_learns_its_own(adapt: str) -> None:
    task = few_shot(adapt=adapt)
    outer, data = task.init_outer(generator()), task.sample(2, generator())
    assert Learned().outer_init(data) == {}
    scores = [
        task.evaluate(InnerLoop(task, GradientDescent(0.1), start), outer, {})
        for start in (Cold(), Learned())
    ]
    assert scores[0] == scores[1]


def test_the_confidence_interval_is_that_of_the_mean() -> None:
    task = few_shot(eval_episodes=30, queries=3)
    loop = InnerLoop(task, GradientDescent(0.1), Learned())
    outer = task.init_outer(generator())
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
    outer = task.init_outer(generator())
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

"""Hyper-cleaning: its noise, its losses, its minibatches and its scores."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from problems import mean_over_blocks, seeded
from runners import built

from bilevel_cli.core import autodiff
from bilevel_cli.data.base import Examples, Labelled, Splits
from bilevel_cli.models import Linear
from bilevel_cli.tasks.reweighting.hyper_cleaning import HyperCleaning
from bilevel_cli.tasks.reweighting.noise import Symmetric, Uniform
from bilevel_cli.tasks.reweighting.scores import cleaning_scores
from bilevel_cli.tasks.reweighting.weights import Sigmoid

CPU = torch.device("cpu")


class Blobs(Examples):
    """Three clusters in the plane."""

    num_classes = 3

    def read(self) -> tuple[Labelled, None]:
        y = torch.arange(300) % 3
        centres = 4 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
        x = centres[y] + torch.randn(300, 2, generator=seeded())
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
    return HyperCleaning(**settings, data=data, model=model, device=CPU, generator=seeded(seed))


@pytest.mark.parametrize("noise", [0.0, 0.25, 0.5, 0.9])
def test_symmetric_noise_changes_exactly_its_share_and_leaves_no_flagged_label_right(
    noise: float,
) -> None:
    # Defect elsewhere: drawn among all ten classes, 10.3 % of the "dirty" labels are right.
    clean = torch.randint(10, (5000,), generator=seeded(1))
    noisy, flag = Symmetric(noise).corrupt(clean, 10, seeded())
    assert int(flag.sum()) == round(noise * 5000)
    assert torch.equal(noisy != clean, flag)
    again, same_flag = Symmetric(noise).corrupt(clean, 10, seeded())
    assert torch.equal(noisy, again)
    assert torch.equal(flag, same_flag)


def test_symmetric_noise_reaches_every_other_class_alike() -> None:
    zeros = torch.zeros(90_000, dtype=torch.long)
    noisy, flag = Symmetric(0.999).corrupt(zeros, 10, seeded())
    counts = torch.bincount(noisy[flag], minlength=10).double()
    assert counts[0] == 0
    # Binomial: standard deviation 94 around 9990.
    assert (counts[1:] - 9990).abs().max() < 5 * 94


def test_uniform_noise_draws_among_all_classes_and_flags_what_is_wrong() -> None:
    clean = torch.randint(10, (100_000,), generator=seeded(1))
    noisy, flag = Uniform(0.9).corrupt(clean, 10, seeded())
    assert torch.equal(flag, noisy != clean)
    # A tenth of the 90 % drawn anew is right by chance: 81 % are wrong; standard deviation 124.
    assert abs(int(flag.sum()) - 81_000) < 5 * 124
    # Every wrong class alike: 9000 each, standard deviation 90.
    shifts = ((noisy - clean) % 10)[flag].bincount(minlength=10)
    assert shifts[0] == 0
    assert (shifts[1:] - 9000).abs().max() < 5 * 91
    assert torch.equal(Uniform(0.0).corrupt(clean, 10, seeded())[0], clean)
    task = cleaning(noise=Uniform(0.9))
    assert task.flag is not None
    said = f"{int(task.flag.sum())} of the 100 training labels were made wrong on purpose"
    assert f"{said} (task/noise=uniform)." in task.statement


def test_the_seed_decides_split_noise_and_start() -> None:
    one, same, other = cleaning(seed=0), cleaning(seed=0), cleaning(seed=1)
    assert torch.equal(one.train.index, same.train.index)
    assert torch.equal(one.train.y, same.train.y)
    assert not torch.equal(one.train.index, other.train.index)


def test_the_gradient_of_a_weight_is_its_own_loss() -> None:
    task = cleaning()
    data = task.sample(1, seeded())
    outer = task.init_outer(seeded())
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    slope = autodiff.grad(task.inner_loss, 1)(inner, outer, data.inner_at(0))["weight_logits"]
    logits = task.model.apply(inner, task.train.x)
    losses = torch.nn.functional.cross_entropy(logits, task.train.y, reduction="none")
    # d/dlambda_i of mean_i sigmoid(lambda_i) CE_i, at lambda = 0.
    torch.testing.assert_close(slope, 0.25 * losses / 100)


def test_the_penalty_of_the_classifier_is_not_halved_and_weights_begin_where_they_are_set() -> None:
    plain, task = cleaning(), cleaning(l2=0.2, weights=Sigmoid(-2.0))
    outer, data = task.init_outer(seeded()), task.sample(1, seeded())
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
    outer, data = task.init_outer(seeded()), task.sample(1, seeded())
    inner = {name: torch.randn(value.shape) for name, value in data.init.items()}
    losses = torch.nn.functional.cross_entropy(
        task.model.apply(inner, task.train.x), task.train.y, reduction="none"
    )
    assert task.inner_loss(inner, outer, data.inner_at(0)) == (0.5 * losses).mean()
    logits = task.model.apply(inner, task.validation.x)
    expected = torch.nn.functional.cross_entropy(logits, task.validation.y)
    assert task.outer_loss(inner, outer, data.outer) == expected


def test_the_mean_over_minibatches_of_cleaning_is_the_full_batch() -> None:
    # 7 and 30 do not divide the 100 examples.
    task, full = cleaning(batch_size=7, outer_batch_size=30), cleaning()
    assert task.blocks == (15, 4)
    data = full.sample(1, seeded())
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
            *(CPU, seeded()),
        )


def test_a_minibatch_knows_its_rows_and_a_pass_has_each_once() -> None:
    task = cleaning(batch_size=20)
    batch = task.sample(10, seeded()).inner
    for one_pass in batch["index"].reshape(2, 100):
        assert torch.equal(one_pass.sort().values, torch.arange(100))
    assert torch.equal(batch["y"], task.train.y[batch["index"]])
    assert torch.equal(batch["x"], task.train.x[batch["index"]])


def test_a_full_batch_costs_no_memory_for_its_repetitions() -> None:
    batch = cleaning().sample(1000, seeded()).inner
    assert all(value.stride(0) == 0 for value in batch.values())


def test_cleaning_scores_have_their_floor_and_ceiling() -> None:
    flag = torch.arange(100) < 50
    everything = cleaning_scores(torch.ones(100, dtype=torch.bool), flag)
    assert everything == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert cleaning_scores(~flag, flag) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert cleaning_scores(torch.zeros(100, dtype=torch.bool), flag)["f1"] == 0


def test_cleaning_finds_the_flipped_digits(tmp_path: Path) -> None:
    run = built(tmp_path, "task=reweight", "outer_steps=40", "eval_every=40")
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

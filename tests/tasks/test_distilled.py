"""Distilled sets: how networks are trained on them, what they are compared with, and the files."""

import contextlib
import itertools
import json
import math
import os
import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import exit_code
from configs import composed, options
from hydra.utils import instantiate
from PIL import Image
from problems import seeded
from torch import Tensor
from torch.nn.functional import cross_entropy
from waits import nobody_waits

from bilevel_cli import models
from bilevel_cli.commands import distilled
from bilevel_cli.commands.rebuilding import option as option_of
from bilevel_cli.config.resolved import resolved
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Labelled
from bilevel_cli.data.digits import Digits
from bilevel_cli.nn import building
from bilevel_cli.nn.functional import Functional
from bilevel_cli.records.manifest import Manifest
from bilevel_cli.tasks.distillation import ranking
from bilevel_cli.tasks.distillation.contest import Contest, compare, prepared, rank
from bilevel_cli.tasks.distillation.retraining import Augmentation, Retraining, TrainingSet, hard
from bilevel_cli.tasks.distillation.selection import (
    BASELINES,
    Herding,
    KCentre,
    RandomReal,
    Selection,
)
from bilevel_cli.tasks.distillation.storage import columns_of, load_npz, save_grid, save_npz

CPU = torch.device("cpu")


def retraining(
    networks: int = 2,
    steps: int = 20,
    lr: float = 0.1,
    batch_size: int | None = None,
    augment: Augmentation | None = None,
) -> Retraining:
    return Retraining(networks, steps, lr, 0.1, 0.9, 5e-4, batch_size, 100, augment)


def mlp(classes: int = 3, shape: tuple[int, ...] = (4,)) -> Functional:
    def model(input_shape: tuple[int, ...], num_outputs: int) -> models.Mlp:
        return models.Mlp(8, 1, "tanh", input_shape, num_outputs)

    return building.build(model, shape, classes, CPU)


def softmax_regression(classes: int = 3, shape: tuple[int, ...] = (4,)) -> Functional:
    return building.build(models.Linear, shape, classes, CPU)


def few(count: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Random inputs with random soft labels."""
    x = torch.randn(count, 4, generator=seeded(1))
    return x, torch.rand(count, classes, generator=seeded(2)).softmax(1)


def digits() -> tuple[Labelled, Labelled]:
    train, _, test = Digits(600, 1, 500).splits(seeded())
    return train, test


# --- retraining ---


def test_training_is_that_of_torch_with_a_step_size_that_falls_halfway() -> None:
    model, (x, y) = mlp(), few()
    (found,) = retraining(steps=21).networks_of(model, [(x, y)], seeded())
    seed = int(torch.randint(2**62, (1,), generator=seeded()))
    params = [value.requires_grad_() for value in model.init(seeded(seed)).values()]
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(21):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 10.5 else 0.01
        with torch.enable_grad():
            loss = cross_entropy(model.apply(dict(zip(found, params, strict=True)), x), y)
            grads = torch.autograd.grad(loss, params)
        for value, grad in zip(params, grads, strict=True):
            value.grad = grad
        optimizer.step()
    for name, value in zip(found, params, strict=True):
        torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=1e-12)


def test_the_first_step_of_softmax_regression_moves_towards_the_soft_labels() -> None:
    x, y = few()
    (found,) = retraining(steps=1).networks_of(softmax_regression(), [(x, y)], seeded())
    # At zero all classes have 1/3, and the gradient of the loss is the mean of (1/3 - y) x^T.
    torch.testing.assert_close(found["head.weight"], 0.1 * (y - 1 / 3).T @ x / len(x))


def test_an_epoch_of_minibatches_of_softmax_regression_visits_every_image() -> None:
    x, y = few()
    how = Retraining(1, 6, 1e-6, 1.0, 0.0, 0.0, 1, 100, None)
    (found,) = how.networks_of(softmax_regression(), [(x, y)], seeded())
    # Steps so small that the gradients at zero add up, with an error of second order.
    torch.testing.assert_close(found["head.weight"] / 1e-6, (y - 1 / 3).T @ x, atol=1e-4, rtol=0)


def test_accuracies_depend_on_the_generator_alone() -> None:
    train, test = digits()
    model, labels = mlp(10, (1, 8, 8)), hard(train.y[:100], 10)

    def accuracies(seed: int) -> Tensor:
        torch.rand(3)  # what others draw
        how = retraining(networks=3, lr=0.05, batch_size=32)
        return how.accuracies(model, train.x[:100], labels, test.x, test.y, seeded(seed))

    first, threads = accuracies(0), torch.get_num_threads()
    torch.set_num_threads(2)
    assert torch.equal(accuracies(0), first)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert len(set(first.tolist())) > 1, "networks begin apart"
    assert not torch.equal(accuracies(1), first)


def test_tests_in_parts_give_the_accuracy_of_the_whole() -> None:
    model, (x, y) = mlp(), few(7)
    params = model.init(seeded())
    found = Retraining(1, 1, 0.1, 1.0, 0.0, 0.0, None, 3, None).accuracy(
        model, params, x, y.argmax(1)
    )
    assert found == (model.apply(params, x).argmax(1) == y.argmax(1)).double().mean()


class Shifted:
    """Adds to each image a number of its own."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def draw(self, count: int, generator: torch.Generator) -> Params:
        self.drawn.append(torch.rand(count, generator=generator))
        return {"shift": self.drawn[-1]}

    def __call__(self, images: Tensor, numbers: Params) -> Tensor:
        return images + numbers["shift"][:, None]


def test_every_step_augments_its_images_with_numbers_of_their_own() -> None:
    augment = Shifted()
    plain, augmented = retraining(steps=4), retraining(steps=4, augment=augment)
    model, some = mlp(), few()
    networks = [how.networks_of(model, [some], seeded())[0] for how in (plain, augmented)]
    assert [len(numbers) for numbers in augment.drawn] == [6] * 4
    assert len(set(torch.cat(augment.drawn).tolist())) == 24
    assert not torch.equal(*(params["head.weight"] for params in networks))


@pytest.mark.gpu
def test_nobody_waits_for_a_gpu_while_networks_are_trained_on_it() -> None:
    def trained(place: str) -> list[Params]:
        model = building.build(models.Linear, (4,), 3, torch.device(place))
        x, y = (part.to(place) for part in few())
        how = retraining(steps=5, batch_size=3, augment=Shifted())
        how.networks_of(model, [(x, y)], seeded())  # libraries wait once, when they are loaded
        with nobody_waits() if place == "cuda" else contextlib.nullcontext():
            return how.networks_of(model, [(x, y)] * 2, seeded())

    for found, expected in zip(trained("cuda"), trained("cpu"), strict=True):
        for name, value in expected.items():
            torch.testing.assert_close(found[name].cpu(), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("option", options("task/retraining"))
def test_an_option_of_retraining_trains_on_images(option: str) -> None:
    node = option_of("task/retraining", option)
    node.networks, node.steps = 2, 10
    train, test = digits()
    rows = Herding().select(train.x, train.y, 1, seeded())
    found = instantiate(node).accuracies(
        softmax_regression(10, (1, 8, 8)), train.x[rows], torch.eye(10), test.x, test.y, seeded()
    )
    assert found.shape == (2,)
    assert (found > 0.4).all()  # chance is 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    [("networks", 0), ("lr", 0.0), ("decay", math.inf), ("momentum", 1.0), ("weight_decay", -1.0)],
)
def test_a_setting_without_meaning_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Retraining needs .*{name}={value}"):
        Retraining(**(vars(retraining()) | {name: value}))


# --- selections ---


def test_herding_picks_the_nearest_to_the_mean_and_then_what_mends_it() -> None:
    x = torch.tensor([0.0, 2.0, 5.0, 9.0])[:, None]  # mean 4
    labels = torch.zeros(4, dtype=torch.long)
    # 5 is off by 1; (5 + 2) / 2 by 1/2; (5 + 2 + 9) / 3 by 4/3, and (5 + 2 + 0) / 3 by 5/3.
    assert Herding().select(x, labels, 3, seeded()).tolist() == [2, 1, 3]


def test_herding_is_greedy_as_enumeration_finds() -> None:
    x = torch.randn(9, 2, generator=seeded())
    chosen: list[int] = []
    for _ in range(5):
        rest = [row for row in range(9) if row not in chosen]
        means = {row: x[[*chosen, row]].mean(0) for row in rest}
        chosen.append(min(rest, key=lambda row: float((means[row] - x.mean(0)).norm())))
    assert Herding().select(x, torch.zeros(9).long(), 5, seeded()).tolist() == chosen


def test_k_centre_leaves_nothing_farther_than_twice_the_best_choice() -> None:
    for seed in range(20):
        x = torch.randn(10, 2, generator=seeded(seed))
        distances = torch.cdist(x, x)
        radii = [
            float(distances[:, centres].amin(1).max())
            for centres in map(list, itertools.combinations(range(10), 3))
        ]
        found = KCentre().select(x, torch.zeros(10).long(), 3, seeded())
        assert float(distances[:, found].amin(1).max()) <= 2 * min(radii) * (1 + 1e-12)


@pytest.mark.parametrize("option", options("task/selection"))
def test_a_selection_picks_so_many_different_ones_of_each_class(option: str) -> None:
    selection: Selection = instantiate(option_of("task/selection", option))
    train, _ = digits()
    rows = selection.select(train.x, train.y, 4, seeded())
    assert torch.equal(train.y[rows], torch.arange(10).repeat_interleave(4))
    assert len(set(rows.tolist())) == 40
    assert torch.equal(selection.select(train.x, train.y, 4, seeded()), rows)
    changes = not torch.equal(selection.select(train.x, train.y, 4, seeded(1)), rows)
    assert changes == isinstance(selection, RandomReal)
    with pytest.raises(ValueError, match=r"needs per_class from 1 to \d+.*Raise data.train"):
        selection.select(train.x, train.y, 100, seeded())


# --- scores ---


def test_the_scores_of_dd_ranking_are_those_computed_by_hand() -> None:
    # The exponents 1 and -1 are the ends of the scale, and at 0 it is at 1 / (1 + e).
    assert ranking.label_robust_score(0, 0, 0.5) == pytest.approx(1 / (1 + math.e))
    assert ranking.label_robust_score(-1, 1, 0.5) == pytest.approx(1)
    assert ranking.label_robust_score(1, -1, 0.5) == pytest.approx(0, abs=1e-15)
    # HLR 0.99 - 0.89, IOR 0.93 - 0.65: the exponent is 0.09; e^0.09 = 1.0941743.
    assert ranking.label_robust_score(0.10, 0.28, 0.5) == pytest.approx(0.309009, abs=1e-6)
    # Gains of 0.28 with and 0.18 without augmentation: 0.23; e^0.23 = 1.2586000.
    assert ranking.augmentation_robust_score(0.28, 0.18, 0.5) == pytest.approx(0.378965, abs=1e-6)


def contest(some: TrainingSet, train: Labelled, test: Labelled, how: Retraining) -> Contest:
    return Contest(some, train, test, how, 0, some[0].numel())


def balanced(each: int) -> Labelled:
    train, _ = digits()
    rows = RandomReal().select(train.x, train.y, each, seeded())
    return train.take(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_all_real_examples_lose_nothing_and_gain_nothing(smoothing: float) -> None:
    train, (_, test) = balanced(20), digits()
    labels = (1 - smoothing) * hard(train.y, 10) + smoothing / 10
    how = retraining(steps=30, augment=None)
    found = rank(contest((train.x, labels), train, test, how), mlp(10, (1, 8, 8)))
    values = dict(zip(found["score"], found["value"], strict=True))
    assert values["hard_label_recovery"] == pytest.approx(0, abs=0.005)
    if smoothing == 0:  # as many random ones are all of them; else a network labels them
        assert values["improvement_over_random"] == pytest.approx(0, abs=0.005)
        assert values["label_robust_score"] == pytest.approx(1 / (1 + math.e), abs=0.002)
    assert "augmentation_robust_score" not in values


def test_the_augmentation_robust_score_weighs_both_ways_of_training() -> None:
    train, (_, test) = balanced(20), digits()
    rows = Herding().select(train.x, train.y, 2, seeded())
    how = retraining(steps=10, augment=Pixels())
    one = contest((train.x[rows], hard(train.y[rows], 10)), train, test, how)
    found = rank(one, mlp(10, (1, 8, 8)))
    values = dict(zip(found["score"], found["value"], strict=True))
    gains = (
        values["distilled_any"] - values["random_any"],
        values["distilled_plain"] - values["random_plain"],
    )
    expected = (math.exp(sum(gains) / 2) - math.exp(-1)) / (math.e - math.exp(-1))
    assert values["augmentation_robust_score"] == pytest.approx(expected)


class Pixels(Shifted):
    def __call__(self, images: Tensor, numbers: Params) -> Tensor:
        return images + numbers["shift"][:, None, None, None]


# --- comparison ---


def test_a_set_that_is_herdings_is_as_good_as_herdings() -> None:
    train, test = digits()
    rows = Herding().select(train.x, train.y, 1, seeded())
    one = contest((train.x[rows], hard(train.y[rows], 10)), train, test, retraining())
    found = compare(one, {"mlp": mlp(10, (1, 8, 8)), "linear": softmax_regression(10, (1, 8, 8))})
    assert list(found) == ["set", "model", "mean", "std", "seeds", "bytes"]
    assert set(found["bytes"]) == {10 * 64}
    assert set(found["set"]) == {"distilled", *BASELINES}
    by_set = found.set_index(["set", "model"])["mean"]
    for model in ("mlp", "linear"):
        # Starts and batches are shared; the first centre is the nearest to the mean as well.
        assert by_set["distilled", model] == by_set["herding", model] == by_set["k_centre", model]
        assert by_set["distilled", model] > by_set["random", model]


def test_a_set_of_other_shape_or_uneven_classes_is_refused() -> None:
    train, test = digits()
    with pytest.raises(ValueError, match=r"images of shape \[1, 8, 8\] and 10 classes"):
        contest((torch.zeros(10, 64), torch.eye(10)), train, test, retraining())
    with pytest.raises(ValueError, match="as many images for every class, got 9 for 10"):
        contest((train.x[:9], torch.eye(10)[:9]), train, test, retraining())


# --- files ---


def test_a_stored_set_comes_back_and_is_normalised_as_it_says(tmp_path: Path) -> None:
    train, test = digits()
    images, labels = train.x[:10], hard(train.y[:10], 10)
    mean, std = torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), 0.4)
    words = {"class_names": list("abcdefghij"), "provenance": "{}"}
    more: dict[str, object] = {"log_lr": 1.0, "bytes": 320, **words}
    save_npz(tmp_path / "a.npz", images, labels, mean=mean, std=std, **more)
    found = load_npz(tmp_path / "a.npz")
    for value, expected in zip(found[:4], (images, labels, mean, std), strict=True):
        assert torch.equal(value, expected)
    assert found[4:] == (320, tuple("abcdefghij"), "{}")
    one = prepared(found, train, test, retraining(), 0, CPU)
    torch.testing.assert_close(one.distilled[0], (images - 0.3) / 0.4)
    torch.testing.assert_close(one.train.x, (train.x - 0.3) / 0.4)
    save_npz(tmp_path / "b.npz", images, labels)
    bare = load_npz(tmp_path / "b.npz")
    assert bare[4:] == (10 * 64, (), "")
    assert torch.equal(prepared(bare, train, test, retraining(), 0, CPU).test.x, test.x)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


def test_a_bad_file_is_refused_with_its_path(tmp_path: Path) -> None:
    path, images, labels = tmp_path / "bad.npz", np.zeros((4, 2)), np.eye(4)

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            load_npz(path)
        assert str(path) in str(caught.value)

    refused("not")
    path.write_bytes(b"not a zip file")
    refused("npz")
    np.savez(path, images=images)
    refused("labels")
    np.savez(path, images=images, labels=labels[:3])
    refused(r"shapes \[4, 2\] and \[3, 4\]")
    np.savez(path, images=images, labels=-labels)
    refused("below 0")
    np.savez(path, images=images * math.nan, labels=labels)
    refused("finite")
    np.savez(path, images=np.empty((0, 2)), labels=np.empty((0, 4)))
    refused(r"shapes \[0, 2\]")
    wrong_entries: dict[str, Any] = {
        "bytes": np.array([3]),
        "class_names": np.array(["cat"]),
        "provenance": np.array(3),
    }
    for name, wrong in wrong_entries.items():
        np.savez(path, images=images, labels=labels, **{name: wrong})
        refused(f"in '{name}'")
    for dtype, shape, body, message in (
        ("|O", "(4, 2)", pickle.dumps(Trap()), "pickle"),
        ("<f8", "(1000000, 1000000)", b"", "promises 8000000000000 bytes"),
    ):
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"
        start = b"\x93NUMPY\x01\x00v\x00" + header.encode().ljust(117) + b"\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", start + body)
            archive.writestr("labels.npy", start + body)
        refused(message)


def test_a_picture_shows_each_class_in_a_row(tmp_path: Path) -> None:
    path, images = tmp_path / "grid.png", torch.linspace(-3, 5, 6)[:, None, None, None]
    save_grid(path, images.expand(6, 1, 8, 8), columns=2)
    with Image.open(path) as grey:
        assert grey.mode == "L"
        assert grey.size == (2 * 58 - 2, 3 * 58 - 2)  # 8 pixels, magnified sevenfold, and gaps
        values = [grey.getpixel((58 * column, 58 * row)) for row in range(3) for column in range(2)]
    assert values == [0, 51, 102, 153, 204, 255]
    save_grid(path, torch.rand(3, 3, 28, 28, generator=seeded()), columns=3)
    with Image.open(path) as coloured:
        assert (coloured.mode, coloured.size) == ("RGB", (3 * 58 - 2, 56))
    assert columns_of(3, 30) == 3
    for count, lines in ((10, 1), (11, 2), (400, 20)):  # one of each class
        save_grid(path, torch.rand(count, 1, 8, 8), columns_of(1, count))
        with Image.open(path) as sheet:
            assert sheet.size == (58 * max(10, lines) - 2, 58 * lines - 2)
    save_grid(path, torch.zeros(1, 1, 2, 2), columns=1)  # no division by a range of zero
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        save_grid(path, torch.zeros(1, 2, 2, 2), columns=1)


# --- the command ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    overrides = ["data.train=200", "data.validation=1", "data.test=100", "device=cpu", "seed=3"]
    settings = resolved(composed("task=reweight", *overrides))
    Manifest(tmp_path, settings, {}, {}).end("completed")
    train, _, _ = instantiate(settings["data"]).splits(seeded())
    rows = Herding().select(train.x, train.y, 1, seeded())
    save_npz(tmp_path / "distilled.npz", train.x[rows], hard(train.y[rows], 10))
    return tmp_path


run = partial(exit_code, "bilevel-distilled", distilled.main)


def test_the_command_compares_the_set_of_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--models", "own,mlp", "--seeds", "2", "--steps", "3", "--scores"]
    (folder / "comparison.csv").symlink_to(folder / "other")
    assert run(monkeypatch, folder, *options, "data.test=50") == 2
    assert "a symbolic link" in capsys.readouterr().err
    assert not (folder / "other").exists()
    (folder / "comparison.csv").unlink()
    assert run(monkeypatch, folder, *options, "data.test=50") == 0
    table = pd.read_csv(folder / "comparison.csv")
    assert list(table) == ["set", "model", "mean", "std", "seeds", "bytes"]
    assert set(table["model"]) == {"own", "mlp"}
    assert set(table["seeds"]) == {2}
    assert (table["mean"] * 50 * 2 % 1).round(4).isin([0, 1]).all(), "means of two, of 50 examples"
    scores = pd.read_csv(folder / "ranking.csv").set_index("score")["value"]
    expected = ranking.label_robust_score(
        scores["hard_label_recovery"], scores["improvement_over_random"], 0.5
    )
    assert scores["label_robust_score"] == pytest.approx(expected)
    shown = capsys.readouterr().out
    assert "distilled" in shown
    assert str(folder / "comparison.csv") in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mpl"], "no option 'mpl'. Did you mean 'mlp'?"),
        (["--models", "conv4,mlp", "data.tset=50"], "tset"),
        (["--seeds", "0"], "networks >= 1"),
        (["--retraining", "quik"], "Did you mean 'quick'?"),
        (["data.train=many"], "data.train"),
        (["device.name=abacus"], "device.name=abacus"),
        (["data._target_=bilevel_cli.data.diabetes.Diabetes"], "labelled examples, got Diabetes"),
    ],
)
def test_the_command_ends_with_one_message_at_a_wrong_option(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, folder, *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("bilevel-distilled: ")
    assert len(shown.splitlines()) <= 3
    assert not (folder / "comparison.csv").exists()


def test_the_command_says_which_file_of_the_run_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, folder / "elsewhere") == 2
    assert "elsewhere" in capsys.readouterr().err
    (folder / "distilled.npz").write_bytes(b"")
    assert run(monkeypatch, folder) == 2
    assert "distilled.npz" in capsys.readouterr().err
    (folder / "distilled.npz").unlink()
    os.mkfifo(folder / "distilled.npz")
    assert run(monkeypatch, folder) == 2
    assert "got none" in capsys.readouterr().err
    for text in ("{", "[]", json.dumps({"settings": {}})):
        (folder / "manifest.json").write_text(text)
        assert run(monkeypatch, folder) == 2
        assert "manifest.json" in capsys.readouterr().err


def test_a_manifest_that_asks_for_the_environment_of_its_reader_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"bilevel_cli.', '"${oc.env:SECRET_TOKEN}.'))
    assert run(monkeypatch, folder) == 2
    said = capsys.readouterr().err
    assert "settings that are resolved" in said
    assert "hunter2" not in said

"""Distilled images of few colours."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import composed, options, small
from runners import runner_in
from torch import Tensor
from torch.nn.functional import conv2d

from bilevel_cli.checks.verdict import check as hold
from bilevel_cli.config.objects import parts
from bilevel_cli.core import autodiff
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.runs.runner import Runner
from bilevel_cli.tasks.distillation.few_colours import BIAS, COLOURS, HIDDEN, Palette

SHARE = 0.01  # network_lr: what is learned of the network is ten times as large


def palette(colours: int, *weights: float) -> Palette:
    return Palette(colours, 9, SHARE, *(weights or (0.0, 0.0, 0.0)))


def learned(stored: Palette, channels: int = 2) -> Params:
    """A state in the middle of learning: no unit of the network is left as it began."""
    source = torch.Generator().manual_seed(1)
    outer = stored.begin(torch.randn(3, channels, 4, 5, generator=source), source)
    return {n: v + 0.3 * torch.randn(v.shape, generator=source) for n, v in outer.items()}


def masks(outer: Params) -> Tensor:
    """m [n, colours, height, width], by convolutions."""
    hidden, bias, colours = (0.1 * outer[name] for name in (HIDDEN, BIAS, COLOURS))
    units = conv2d(outer["images"], hidden[:, :, None, None], bias).relu()
    return conv2d(units, colours[:, :, None, None]).softmax(1)


def painted(images: Tensor, m: Tensor) -> Tensor:
    """Each image from its own mean colours under the masks m."""
    result = torch.zeros_like(images)
    for image, mask, target in zip(images, m, result, strict=True):
        for weight in mask:
            if weight.sum() > 0:
                target += weight * ((image * weight).sum((1, 2)) / weight.sum())[:, None, None]
    return result


def build(directory: Path, *words: str) -> Runner:
    directory.mkdir(exist_ok=True)
    few = ["task=distill", "task/parametrization=palette", "device=cpu", "device.dtype=float64"]
    return runner_in(composed(*few, *small("distill"), *words), directory)


def test_images_are_mixtures_of_their_mean_colours_and_deployed_ones_have_no_mixtures() -> None:
    stored = palette(4)
    outer = learned(stored)
    m = masks(outer)
    torch.testing.assert_close(stored.images(outer), painted(outer["images"], m))
    hard = (m == m.amax(1, keepdim=True)).to(m)
    kept = stored.deployed(outer)
    torch.testing.assert_close(stored.images(kept), painted(outer["images"], hard))
    torch.testing.assert_close(stored.images(stored.deployed(kept)), stored.images(kept))


def test_it_begins_at_the_nearest_of_colours_as_many_as_the_images_have() -> None:
    stored, source = palette(4), torch.Generator().manual_seed(0)
    colours = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    images = colours[torch.randint(4, (6, 8, 8), generator=source)].movedim(3, 1)
    outer = stored.begin(images, source)
    torch.testing.assert_close(stored.images(outer), images)
    torch.testing.assert_close(stored.images(stored.deployed(outer)), images)
    with pytest.raises(
        ValueError, match="Palette needs 5 colours in the images that it begins with, got 4"
    ):
        palette(5).begin(images, source)


def test_the_colour_terms_are_those_of_the_paper() -> None:
    outer = learned(palette(4))
    m = masks(outer).flatten(2)
    mean = m.mean(2)
    expected = {
        (1.0, 0.0, 0.0): -m.max(2).values.mean(),
        (0.0, 1.0, 0.0): (mean * mean.log()).sum(1).mean(),
        (0.0, 0.0, 1.0): -(m * m.log()).sum(1).mean(),
    }
    for weights, term in expected.items():
        torch.testing.assert_close(palette(4, *weights).penalty(outer), term)
    weighted = 0.5 * sum(expected.values())
    torch.testing.assert_close(palette(4, 0.5, 0.5, 0.5).penalty(outer), weighted)
    # Colours that no pixel has leave finite slopes behind.
    lost = outer | {COLOURS: 1e4 * outer[COLOURS]}
    penalty = palette(4, 1.0, 1.0, 1.0).penalty
    slopes = autodiff.grad(lambda outer: torch.as_tensor(penalty(outer)))(lost)
    assert all(slope.isfinite().all() for slope in slopes.values())


def test_a_palette_is_mapped_and_differentiated_twice_and_forwards() -> None:
    stored = palette(3, 1.0, 2.0, 3.0)
    outer, direction = learned(stored), learned(stored)

    def value(t: Tensor) -> Tensor:
        moved = {n: v + t * direction[n] for n, v in outer.items()}
        return stored.images(moved).pow(3).sum() + stored.penalty(moved)

    slope, zero = autodiff.grad(value), torch.zeros(())
    torch.testing.assert_close(autodiff.jacfwd(value)(zero), slope(zero))
    step = torch.tensor(1e-5)  # errors of differences: step^2; no unit of the network turns in it
    torch.testing.assert_close(
        slope(zero), (value(step) - value(-step)) / (2 * step), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(
        autodiff.grad(slope)(zero), (slope(step) - slope(-step)) / (2 * step), rtol=1e-5, atol=1e-7
    )
    several = torch.tensor([0.0, 0.1])
    mapped = autodiff.vmap(slope)(several)
    torch.testing.assert_close(mapped, torch.stack([slope(t) for t in several]))


@pytest.mark.parametrize(("colours", "times", "each"), [(2, 8, 8 + 2), (5, 2, 24 + 5)])
def test_a_file_holds_numbers_of_colours_and_says_its_bytes(
    colours: int, times: int, each: int, tmp_path: Path
) -> None:
    number = f"task.parametrization.colours={colours}"
    runner = build(tmp_path, number, "data.train=300", "outer_steps=2", "optimizer.lr=0.3")
    runner.run()
    runner.result()
    with np.load(tmp_path / "distilled.npz") as archive:
        saved = dict(archive)
    images, indices, colours_of = (saved[name] for name in ("images", "indices", "palette"))
    assert len(images) == 10 * times == len(saved["labels"])
    assert saved["bytes"] == 10 * times * each  # of 8x8 pixels at 1 or 3 bits, and the palette
    assert indices.dtype == np.uint8
    decoded = np.take_along_axis(colours_of[:, :, 0], indices.reshape(len(images), -1), 1)
    np.testing.assert_allclose(images.reshape(len(images), -1), decoded, atol=1e-12)
    assert not any(name.startswith("images.") for name in saved)


@pytest.mark.parametrize("parametrization", options("task/parametrization"))
def test_exact_methods_are_exact_for_every_way_to_store_images(parametrization: str) -> None:
    words = ["task=distill", f"task/parametrization={parametrization}", "method=reverse"]
    words += [*small("distill"), "device=cpu", "device.dtype=float64", "inner_steps=3"]
    words += ["task.per_class=null", "task.count=1", "task.learn_labels=true"]
    config = composed(*words)
    _, _, task, loop, method = parts(config, {})
    found = hold(method, loop, task, config.inner_steps, config.seed)
    assert found.verdict == "ok", found


def test_the_network_steps_by_its_share_of_the_step_size() -> None:
    stored, outer = palette(3), learned(palette(3))

    def loss(outer: Params) -> Tensor:
        return stored.images(outer).pow(3).sum()

    def of_network(colours: Tensor) -> Tensor:
        return loss(outer | {COLOURS: colours / math.sqrt(SHARE)})

    step = math.sqrt(SHARE) * autodiff.grad(loss)(outer)[COLOURS]
    network = math.sqrt(SHARE) * outer[COLOURS]
    torch.testing.assert_close(step, SHARE * autodiff.grad(of_network)(network))


def test_a_resumed_run_ends_as_one_that_went_through(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", "outer_steps=4")
    whole.run()
    build(tmp_path / "parts", "outer_steps=2").run()
    again = build(tmp_path / "parts", "outer_steps=4")
    again.run()
    for name, value in whole.state.outer.items():
        assert torch.equal(again.state.outer[name], value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.parametrization.colours=1"], "colours from 2 to 256, got colours=1"),
        (["task.parametrization.width=2"], "width >= 3 for 1 channels"),
        (["task.parametrization.network_lr=0"], "network_lr > 0"),
        (["task.parametrization.spread=-1"], "finite spread >= 0"),
        (["data=breast_cancer"], "Palette needs images, got examples of shape"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path, *words)

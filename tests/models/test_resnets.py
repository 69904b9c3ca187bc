"""Residual networks are those of the literature, at any size."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, leaky_relu, relu

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.trees import Params
from bilevel_cli.models.resnets import CifarResNet, ResNet12
from bilevel_cli.nn.building import Shape, build
from bilevel_cli.nn.functional import Functional

CPU = torch.device("cpu")


def few_shot(shape: Shape = (3, 16, 16)) -> Functional:
    return build(partial(ResNet12, 2, 0.1), shape, 5, CPU)


def cifar(shape: Shape = (3, 8, 8)) -> Functional:
    return build(partial(CifarResNet, 2, 1), shape, 10, CPU)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def away(model: Functional) -> Params:
    """Parameters where scales are not one and shifts not zero."""
    drawn = model.init(torch.Generator().manual_seed(0))
    return {name: value + 0.3 * torch.randn_like(value) for name, value in drawn.items()}


@pytest.mark.parametrize(
    ("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)]
)
def test_the_cifar_networks_have_the_published_sizes(blocks: int, millions: float) -> None:
    # Table 6 of He et al. (2016): ResNet-20, 32, 44, 56 and 110.
    found = parameters(CifarResNet(16, blocks, (3, 32, 32), 10)) / 1e6
    assert round(found, 2 if found < 1 else 1) == millions


def test_resnet32_has_464154_parameters() -> None:
    stem, head = 27 * 16 + 32, 64 * 10 + 10

    def pair(before: int, after: int) -> int:
        return 9 * after * (before + after) + 4 * after

    stages = [pair(16, 16) * 5, pair(16, 32) + 4 * pair(32, 32), pair(32, 64) + 4 * pair(64, 64)]
    assert parameters(CifarResNet(16, 5, (3, 32, 32), 10)) == stem + sum(stages) + head == 464_154


def test_resnet12_has_eight_million_parameters() -> None:
    def block(before: int, after: int) -> int:
        return 9 * after * (before + 2 * after) + before * after + 4 * 2 * after

    blocks = block(3, 64) + block(64, 128) + block(128, 256) + block(256, 512)
    assert blocks == 7_996_800
    assert parameters(ResNet12(64, 0.1, (3, 84, 84), 5)) == blocks + 512 * 5 + 5


def normalised(params: Params, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolution and batch normalisation, from their definitions."""
    weight = params[f"{name}.0.weight"]
    y = conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
    scale = params[f"{name}.1.weight"] / (variance + 1e-5).sqrt()
    shift = params[f"{name}.1.bias"] - scale * mean
    return scale[:, None, None] * y + shift[:, None, None]


def test_resnet12_is_its_formula() -> None:
    model, x = few_shot(), torch.randn(4, 3, 16, 16)
    params = away(model)
    y = x
    for block in range(4):
        name, z = f"features.{block}", y
        for number in range(3):
            z = normalised(params, f"{name}.convolutions.{number}", z)
            z = leaky_relu(z, 0.1) if number < 2 else z
        y = leaky_relu(z + normalised(params, f"{name}.shortcut", y), 0.1)
        if block < 3:
            y = y.reshape(4, -1, side := y.shape[2] // 2, 2, side, 2).amax((3, 5))
    expected = y.mean((2, 3)) @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(model.apply(params, x), expected)


def test_the_cifar_network_is_its_formula() -> None:
    model, x = cifar(), torch.randn(4, 3, 8, 8)
    params = away(model)
    y = relu(normalised(params, "stem", x))
    for block, stride in enumerate((1, 2, 2)):
        z = relu(normalised(params, f"features.{block}.first", y, stride))
        z = normalised(params, f"features.{block}.second", z)
        kept = y[:, :, ::stride, ::stride]
        nothing = torch.zeros_like(z[:, kept.shape[1] :])
        y = relu(z + torch.cat([kept, nothing], 1))
    expected = y.mean((2, 3)) @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(model.apply(params, x), expected)


@pytest.mark.parametrize("make", [few_shot, cifar])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 9), (3, 32, 32)])
def test_images_of_any_size_will_do(make: Callable[..., Functional], shape: Shape) -> None:
    model = make(shape=shape)
    assert model.apply(away(model), torch.randn(2, *shape)).shape[0] == 2


@pytest.mark.parametrize("make", [few_shot, cifar])
def test_second_derivatives_are_those_of_differences(make: Callable[..., Functional]) -> None:
    model = make(shape=(3, 8, 8))
    x = torch.randn(2, 3, 3, 8, 8)
    flat, unravel = trees.ravel(away(model))
    toward = torch.randn_like(flat)

    def slope(step: Tensor, x: Tensor) -> Tensor:
        def loss(params: Params) -> Tensor:
            return cross_entropy(model.apply(params, x), torch.arange(3))

        here = unravel(flat + step * toward)
        return trees.ravel(autodiff.grad(loss)(here))[0]

    def both(x: Tensor) -> Tensor:
        return autodiff.jacfwd(lambda step: slope(step, x))(torch.zeros(()))

    mapped = autodiff.vmap(both)(x)  # forward mode over reverse, over episodes
    for found, one in zip(mapped, x, strict=True):
        step = torch.tensor(1e-6)
        expected = (slope(step, one) - slope(-step, one)) / (2 * step)
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ResNet12, 0, 0.1, (3, 8, 8), 2), "ResNet12 needs width >= 1"),
        (partial(CifarResNet, 4, 0, (3, 8, 8), 2), "CifarResNet needs blocks >= 1"),
        (partial(ResNet12, 4, 0.1, (9,), 2), "ResNet12 needs images .* Use model=linear"),
        (partial(CifarResNet, 4, 1, (9,), 2), "CifarResNet needs images .* Use model=linear"),
    ],
)
def test_an_impossible_network_is_refused(make: partial[Functional], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

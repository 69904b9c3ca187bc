"""Convolutions of data: torch's numbers to rounding, without the derivative in the data."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel_cli.core import autodiff
from bilevel_cli.nn import filters
from bilevel_cli.nn.functional import functional, shared_copy

SETTINGS: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": 1, "bias": False},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": "same"},
    {"stride": 2, "padding": (0, 2), "dilation": (2, 1), "groups": 2},
]


def layer(**settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 4, 3, **settings)


def orders(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and derivatives of the first to the third order in the parameters."""
    params = list(module.parameters())
    found = last = [module(x)]
    for _ in range(3):
        curved = sum(value.sin().sum() for value in last)
        last = list(torch.autograd.grad(curved, params, create_graph=True))
        found = found + last
    return found


class Transposed(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts convolutions back to the input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.count = 0

    def __torch_dispatch__(self, fn: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if fn is torch.ops.aten.convolution.default:
            self.count += args[6]
        if fn is torch.ops.aten.convolution_backward.default:
            self.count += args[10][0]
        return fn(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.enable_grad()
def test_values_and_three_derivatives_are_those_of_torch(settings: dict[str, Any]) -> None:
    own, x = layer(**settings), torch.randn(3, 2, 9, 8)
    expected = orders(own, x)
    for found, value in zip(orders(filters.routed(shared_copy(own)), x), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


@torch.enable_grad()
def test_no_derivative_in_data_is_computed() -> None:
    x = torch.randn(3, 2, 9, 8)
    with Transposed() as torchs:
        orders(layer(padding=1), x)
    with Transposed() as ours:
        orders(filters.routed(layer(padding=1)), x)
    assert ours.count == 0 < torchs.count


@torch.enable_grad()
def test_images_that_are_learned_have_their_derivative() -> None:
    own, x = layer(padding=1), torch.randn(3, 2, 9, 8, requires_grad=True)
    (found,) = torch.autograd.grad(filters.routed(shared_copy(own))(x).pow(3).sum(), [x])
    (expected,) = torch.autograd.grad(own(x).pow(3).sum(), [x])
    assert torch.equal(found, expected)


def test_a_mapped_layer_has_the_numbers_of_one_that_is_not() -> None:
    model = functional(lambda: layer(padding=1))
    params, x = model.init(torch.Generator().manual_seed(0)), torch.randn(3, 2, 2, 9, 8)

    def slope(images: Tensor) -> Any:
        return autodiff.grad(lambda params: model.apply(params, images).pow(3).sum())(params)

    each = [slope(images) for images in x]
    for name, mapped in autodiff.vmap(slope)(x).items():
        torch.testing.assert_close(mapped, torch.stack([one[name] for one in each]))

"""Batch normalisation with a derivative of its own is batch normalisation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilevel_cli.core import autodiff
from bilevel_cli.nn.normalization import BatchNorm2d

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]
SHAPES = [(5, 3, 4, 6), (2, 1, 3, 3), (4, 2, 1, 1)]


def layer(module: nn.BatchNorm2d) -> Layer:
    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))

    return call


def ours(shape: tuple[int, ...]) -> Layer:
    return layer(BatchNorm2d(shape[1]))


def theirs(shape: tuple[int, ...]) -> Layer:
    return layer(nn.BatchNorm2d(shape[1], track_running_stats=False))


def written_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    normal = (x - mean) / (variance + 1e-5).sqrt()
    return weight[:, None, None] * normal + bias[:, None, None]


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    return 2 * torch.randn(shape) + 3, torch.randn(shape[1]), torch.randn(shape[1])


def derivatives(
    fn: Layer, at: tuple[Tensor, ...], rows: list[tuple[Tensor, ...]]
) -> list[list[Tensor]]:
    """Value, gradient of a cubic of it, and more derivatives, each of the last one's square."""
    (row,), *others = rows
    with torch.enable_grad():
        x = [value.clone().requires_grad_() for value in at]
        found = [[fn(*x)]]
        value = (found[0][0] ** 3 * row).sum()
        for directions in others:
            found.append(list(torch.autograd.grad(value, x, create_graph=True)))
            pairs = zip(found[-1], directions, strict=True)
            value = torch.stack([(part * d).sum() ** 2 for part, d in pairs]).sum()
    return [[part.detach() for part in parts] for parts in found]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_three_derivatives_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    at = arguments(shape)
    rows = [(torch.randn(shape),), *(tuple(map(torch.randn_like, at)) for _ in range(3))]
    found, expected = (derivatives(fn, at, rows) for fn in (ours(shape), written_out))
    for parts in zip(found, expected, strict=True):
        for part, other in zip(*parts, strict=True):
            scale = float(other.abs().max())
            torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-10 * scale)


def test_the_third_derivative_of_torch_takes_statistics_for_constants() -> None:
    """The day this fails, nn.BatchNorm2d is right; see the docstring of ours. 2.14 has none."""
    at = arguments(SHAPES[0])
    rows = [(torch.randn(SHAPES[0]),), *(tuple(map(torch.randn_like, at)) for _ in range(3))]
    expected = derivatives(written_out, at, rows)[3][0]
    try:
        found = derivatives(theirs(SHAPES[0]), at, rows)[3][0]
    except RuntimeError:
        return
    assert (found - expected).norm() > 1e-4 * expected.norm()


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_its_second_derivative_loses_to_rounding_what_subtracting_a_mean_does(
    offset: float,
) -> None:
    shape = (5, 8, 14, 14)
    x, weight, bias = (value.float() for value in arguments(shape))
    g, u, a, b = torch.randn(shape), torch.randn(shape), torch.randn(8), torch.randn(8)

    def second(fn: Layer, dtype: torch.dtype) -> tuple[Tensor, ...]:
        at = [v.to(dtype).requires_grad_() for v in (x + offset, weight, bias)]
        row = g.to(dtype).requires_grad_()
        with torch.enable_grad():
            slopes = torch.autograd.grad(fn(*at), at, row, create_graph=True)
        directions = [v.to(dtype) for v in (u, a, b)]
        return torch.autograd.grad(slopes, (at[0], at[1], row), directions)

    # Means of n = 980 numbers are off by sqrt(n) u of their size, which is 1500 times their spread;
    # the second derivative takes four of them. A difference of squares would lose 1500 squared.
    size, spread = (x + offset).double().square().mean().sqrt(), (x + offset).double().std()
    bound = 4 * 980**0.5 * 2.0**-24 * float(size / spread)
    found, exact = second(ours(shape), torch.float32), second(written_out, torch.float64)
    for part, other in zip(found, exact, strict=True):
        assert (part - other).norm() <= bound * other.norm()


def test_under_a_mapping_it_has_the_values_and_slopes_of_torch_s_own() -> None:
    shape = SHAPES[0]
    each = [arguments(shape) for _ in range(3)]
    stacked = [torch.stack(parts) for parts in zip(*each, strict=True)]

    def slope(fn: Layer) -> Any:
        return autodiff.grad(lambda *at: (fn(*at) ** 3).sum())

    found = autodiff.vmap(slope(ours(shape)))(*stacked)
    for part, at in zip(found, each, strict=True):
        torch.testing.assert_close(part, slope(theirs(shape))(*at))

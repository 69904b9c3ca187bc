"""Pooling by whole tensors is torch's pooling, with all its derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bilevel_cli.core import autodiff
from bilevel_cli.nn import pooling
from bilevel_cli.nn.pooling import AvgPool2x2, MaxPool2x2

PAIRS = [(MaxPool2x2(), nn.MaxPool2d(2)), (AvgPool2x2(), nn.AvgPool2d(2))]
SHAPES = [(3, 2, 8, 8), (2, 3, 6, 10), (2, 1, 2, 2), (2, 3, 7, 5), (1, 2, 2, 301)]


@pytest.fixture(autouse=True)
def no_input_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "SMALLEST", 0)


def derivatives(pool: Callable[[Tensor], Tensor], x: Tensor, rows: list[Tensor]) -> list[Tensor]:
    """Value, gradient of a cubic of it, and two more derivatives along directions."""
    weight, *directions = rows
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        found = [pool(x)]
        found += torch.autograd.grad((found[0] ** 3 * weight).sum(), x, create_graph=True)
        for direction in directions:
            slope = (found[-1] * direction).sum()
            found += torch.autograd.grad(slope, x, create_graph=True)
    return [value.detach() for value in found]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["max", "average"])
def test_three_derivatives_are_those_of_torch(
    ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    rows = [torch.randn_like(theirs(x)), torch.randn(shape), torch.randn(shape)]
    for found, expected in zip(
        derivatives(ours, x, rows), derivatives(theirs, x, rows), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_of_equal_entries_the_first_gets_the_gradient_as_in_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    # Three values in windows of four: every window has ties, of every kind.
    x = torch.randint(3, (50, 4, 8, 9), generator=generator).to(torch.get_default_dtype())
    rows = [torch.randn(50, 4, 4, 4), torch.randn(x.shape)]
    found, expected = (derivatives(pool, x, rows) for pool in PAIRS[0])
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["max", "average"])
def test_without_a_graph_and_under_a_mapping_values_are_the_same(
    ours: nn.Module, theirs: nn.Module
) -> None:
    x = torch.randn(4, 2, 3, 6, 6)
    expected = torch.stack([theirs(part) for part in x])
    torch.testing.assert_close(torch.stack([ours(part) for part in x]), expected)
    torch.testing.assert_close(autodiff.vmap(ours)(x), expected)


def test_a_window_with_nan_is_nan() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = torch.nan
    for ours, _ in PAIRS:
        found = derivatives(ours, x, [torch.ones(1, 1, 2, 2)])[0]
        assert found.isnan().flatten().tolist() == [True, False, False, False]

"""Cross-entropy across examples is cross-entropy."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bilevel_cli.core import autodiff
from bilevel_cli.nn import losses
from bilevel_cli.nn.losses import cross_entropy

SHAPES = [(256, 2), (300, 10), (700, 15), (255, 10), (256, 16), (20, 3)]


def problem(shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return 5 * torch.randn(shape, dtype=dtype), torch.randint(shape[1], shape[:1])


@pytest.mark.parametrize("labels", ["classes", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_has_the_values_and_derivatives_of_torch(
    shape: tuple[int, int], reduction: str, labels: str
) -> None:
    logits, targets = problem(shape)
    if labels == "probabilities":  # learned labels of a distilled set
        targets = torch.randn(shape).softmax(-1)
    weights, direction = torch.rand(shape[0]), torch.randn(shape)

    def first(fn: Any) -> Any:
        return autodiff.grad(lambda x: (weights * fn(x, targets, reduction=reduction)).sum())

    def second(fn: Any) -> Any:
        return autodiff.grad(lambda x: (direction * first(fn)(x)).sum())

    def third(fn: Any) -> Any:
        return autodiff.grad(lambda x: (direction * second(fn)(x)).sum())

    torch.testing.assert_close(
        cross_entropy(logits, targets, reduction=reduction),
        functional.cross_entropy(logits, targets, reduction=reduction),
    )
    for order in (first, second, third):
        found, expected = order(cross_entropy)(logits), order(functional.cross_entropy)(logits)
        # float64 of sums of at most 15 terms, and their cancellation in third derivatives.
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_it_rounds_a_few_times_in_float32_for_large_logits(shape: tuple[int, int]) -> None:
    logits, targets = problem(shape, torch.float32)
    logits[::7] *= 1e4  # overflow where the largest is not subtracted first
    exact = functional.cross_entropy(logits.double(), targets, reduction="none")

    found = cross_entropy(logits, targets, reduction="none")
    # The loss is (max - target) + log(sum of n terms <= 1): n roundings of the sum, in any order, a
    # few of exponentials, whose arguments are rounded too, one of the difference, one of the total.
    bound = (shape[1] + 10) * 2.0**-24
    assert float(((found - exact) / (1 + exact)).abs().max()) <= bound


def test_it_maps_over_problems() -> None:
    pairs = [problem((300, 4)) for _ in range(3)]
    logits, targets = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    found = autodiff.vmap(autodiff.grad(cross_entropy))(logits, targets)
    for part, pair in zip(found, pairs, strict=True):
        torch.testing.assert_close(part, autodiff.grad(functional.cross_entropy)(*pair))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes for which torch's own function was called."""
    shapes, original = list[tuple[int, ...]](), functional.cross_entropy

    def own(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shapes.append(tuple(logits.shape))
        return original(logits, *args, **kwargs)

    monkeypatch.setattr(functional, "cross_entropy", own)
    return shapes


def test_few_rows_and_many_classes_are_torch_s_own(asked: list[tuple[int, ...]]) -> None:
    for shape in SHAPES:
        cross_entropy(*problem(shape))
    assert asked == SHAPES[3:]


@pytest.mark.parametrize(
    ("lanes", "own"), [(16, [(256, 16)]), (8, [(256, 16), (4095, 8), (256, 15)])]
)
def test_rows_that_fill_a_vector_of_this_processor_are_torch_s_own_unless_they_are_many(
    lanes: int, own: list[tuple[int, int]], asked: list[tuple[int, ...]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(losses, "LANES", lanes)
    for shape in ((256, 16), (256, 7), (4095, 8), (4096, 8), (256, 15)):
        cross_entropy(*problem(shape, torch.float32))
    assert asked == own
    cross_entropy(*problem((256, 15)))  # float64, of which a vector has half as many
    assert asked == own

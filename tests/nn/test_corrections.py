"""Functions of torch with a wrong derivative are right where a user's model or loss calls them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import bilevel_cli
from bilevel_cli.core import autodiff
from bilevel_cli.nn.building import build
from bilevel_cli.nn.corrections import Corrected
from bilevel_cli.nn.third_derivatives import written_out

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]  # of an input, a weight and a bias


def by_formula(*dims: int) -> Layer:
    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shape = weight.shape if dims[0] < 0 else (-1, *[1] * (x.dim() - 2))
        return written_out(x, weight.reshape(shape), bias.reshape(shape), list(dims), 1e-5)

    return call


# As users call them; the formula; the shape of an input, and of weight and bias.
CALLS: dict[str, tuple[Layer, Layer, tuple[int, ...], tuple[int, ...]]] = {
    "F.layer_norm": (
        lambda x, w, b: F.layer_norm(x, w.shape, w, bias=b),
        by_formula(-1),
        (4, 5, 6),
        (6,),
    ),
    "torch.layer_norm": (
        lambda x, w, b: torch.layer_norm(x, [5, 6], w, b, 1e-5),
        by_formula(-2, -1),
        (4, 5, 6),
        (5, 6),
    ),
    "F.batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, weight=w, bias=b, training=True),
        by_formula(0, 2, 3),
        (5, 3, 4, 2),
        (3,),
    ),
    "torch.batch_norm": (
        lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
        by_formula(0),
        (5, 3),
        (3,),
    ),
    "F.instance_norm": (
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
        by_formula(2, 3),
        (4, 3, 2, 3),
        (3,),
    ),
    "torch.instance_norm": (
        lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
        by_formula(2),
        (4, 3, 6),
        (3,),
    ),
    "torch._weight_norm": (
        lambda x, w, b: torch._weight_norm(x, w[:, None], 0) * b[:, None],
        lambda x, w, b: x / x.square().sum(1, keepdim=True).sqrt() * w[:, None] * b[:, None],
        (4, 5),
        (4,),
    ),
    "torch._weight_norm of the second dimension": (
        lambda x, w, b: torch._weight_norm(x, w[:, None], dim=1) * b[:, None],
        lambda x, w, b: x / x.square().sum((0, 2), keepdim=True).sqrt() * w[:, None] * b[:, None],
        (2, 4, 3),
        (4,),
    ),
}


def derivative(order: int, fn: Layer, along: list[list[Tensor]]) -> Callable[..., tuple[Tensor]]:
    def scalar(*at: Tensor) -> Tensor:
        if order == 1:
            return (fn(*at) ** 3 * along[0][0]).sum()
        slopes = derivative(order - 1, fn, along)(*at)
        pairs = zip(slopes, along[order - 1], strict=True)
        return torch.stack([(slope * one).sum() for slope, one in pairs]).sum() ** 2

    return lambda *at: autodiff.grad(scalar, (0, 1, 2))(*at)


@pytest.mark.parametrize("name", CALLS)
def test_three_derivatives_are_those_of_the_formula_mapped_or_not(name: str) -> None:
    fn, formula, *shapes = CALLS[name]
    at = [torch.randn(shapes[0]) + 1, torch.randn(shapes[1]), torch.randn(shapes[1])]
    along = [[torch.randn_like(value) for value in at] for _ in range(3)]

    def corrected(*given: Tensor) -> Tensor:
        with Corrected():
            return fn(*given)

    torch.testing.assert_close(corrected(*at), fn(*at), rtol=1e-14, atol=1e-14)
    stacked = [torch.stack([value, 0.7 * value]) for value in at]
    for order in (1, 2, 3):
        found, expected = (derivative(order, one, along) for one in (corrected, formula))
        # Of sums of some hundred terms in float64, cancellation included.
        torch.testing.assert_close(found(*at), expected(*at), rtol=1e-8, atol=1e-8)
        mapped = autodiff.vmap(found)(*stacked)
        torch.testing.assert_close(mapped, autodiff.vmap(expected)(*stacked), rtol=1e-8, atol=1e-8)


def test_what_torch_has_right_is_left_to_torch() -> None:
    x, mean, variance = torch.randn(5, 3, 4), torch.zeros(3), torch.ones(3)
    with Corrected() as mode:
        F.batch_norm(x, mean, variance)
        F.instance_norm(x, mean, variance, use_input_stats=False)
        F.group_norm(x, 3)
        F.rms_norm(x, (4,))
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            F.batch_norm(torch.ones(1, 3), None, None, training=True)
    assert not mode.used


# ---- models


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, 2)
        self.norm = nn.LayerNorm(5)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(torch.tanh(self.body(x))))


class LayerNorm2d(nn.LayerNorm):
    """As vision models have it."""

    def forward(self, x: Tensor) -> Tensor:
        moved = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias)
        return moved.permute(0, 3, 1, 2)


class InImages(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = LayerNorm2d(5)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x[:, :, None, None])[:, :, 0, 0]


class ByWeights(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body = parametrizations.weight_norm(self.body)


class ByOldWeights(Base):
    def __init__(self) -> None:
        super().__init__()
        with pytest.warns(FutureWarning, match="weight_norm"):
            self.body = nn.utils.weight_norm(self.body)


@pytest.mark.parametrize("model", [InImages, ByWeights, ByOldWeights])
def test_a_model_that_calls_such_a_function_has_right_derivatives(
    model: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    built, x = build(model, (3,), 2, torch.device("cpu")), torch.randn(7, 3)
    assert not caplog.records
    point = {name: value.detach() for name, value in built.named_parameters()}
    along = {name: torch.randn_like(value) for name, value in point.items()}

    def sloped(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(params: dict[str, Tensor]) -> Tensor:
            slope = autodiff.grad(fn)(params)
            return torch.stack([(slope[name] * along[name]).sum() for name in slope]).sum()

        return call

    lower = sloped(sloped(lambda params: built.apply(params, x).pow(3).sum()))
    step = 1e-5
    ends = [lower({n: v + sign * step * along[n] for n, v in point.items()}) for sign in (1, -1)]
    # The error of a central difference: step^2 = 1e-10 of the fifth derivative, and rounding.
    difference = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(sloped(lower)(point), difference, rtol=1e-5, atol=1e-5)


def test_a_model_that_calls_none_is_called_as_it_is() -> None:
    assert not build(Base, (3,), 2, torch.device("cpu")).corrects


def test_a_loss_of_a_user_has_the_hypergradient_of_the_formula() -> None:
    x, y, direction = torch.randn(20, 3), torch.randn(20), torch.randn(1, 3)

    def hypergradient(weight: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        def inner_loss(v: Tensor, lam: Tensor) -> Tensor:
            return ((x @ weight(v, lam.exp())[0] - y) ** 2).mean() + 0.1 * v.square().sum()

        def outer_loss(v: Tensor, lam: Tensor) -> Tensor:
            return (x[:5] @ weight(v, lam.exp())[0] - y[:5] ** 2).square().mean()

        given = (inner_loss, outer_loss, direction, torch.zeros(1, 1))
        found = bilevel_cli.hypergradient(*given, method="reverse", steps=10, lr=0.05)
        assert isinstance(found.grad, Tensor)
        return found.grad

    def by_torch(v: Tensor, g: Tensor) -> Tensor:
        return torch._weight_norm(v, g, 0)

    expected = hypergradient(lambda v, g: g * v / v.norm())
    torch.testing.assert_close(hypergradient(by_torch), expected, rtol=1e-9, atol=0)

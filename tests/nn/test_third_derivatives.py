"""Torch's normalisations keep their values and two derivatives, and get a third that is right."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import functional
from bilevel_cli.nn.normalization import BatchNorm2d
from bilevel_cli.nn.third_derivatives import routed
from bilevel_cli.tasks.reweighting.learning_to_reweight import alignments

Layer = Callable[..., Tensor]  # of x and the parameters that it has
BATCH = {"track_running_stats": False}
# A layer, the shape of its input, and the dimensions over which it takes mean and variance.
LAYERS: list[tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = [
    (nn.LayerNorm(6), (4, 5, 6), (-1,)),
    (nn.LayerNorm((5, 6), bias=False), (4, 5, 6), (-2, -1)),
    (nn.LayerNorm(6, elementwise_affine=False), (4, 6), (-1,)),
    (nn.BatchNorm1d(3, **BATCH), (5, 3), (0,)),
    (nn.BatchNorm1d(3, **BATCH, affine=False), (5, 3, 4), (0, 2)),
    (nn.BatchNorm2d(3, **BATCH), (5, 3, 4, 2), (0, 2, 3)),
    (nn.BatchNorm3d(3, **BATCH), (2, 3, 2, 2, 2), (0, 2, 3, 4)),
    (nn.InstanceNorm1d(3), (4, 3, 6), (2,)),
    (nn.InstanceNorm2d(3, affine=True), (4, 3, 2, 3), (2, 3)),
    (BatchNorm2d(3), (5, 3, 4, 2), (0, 2, 3)),
]
every_layer = pytest.mark.parametrize(
    ("module", "shape", "dims"), LAYERS, ids=lambda part: str(part).replace(" ", "")[:60]
)


def called(module: nn.Module) -> Layer:
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *params: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, params, strict=True)), (x,))

    return call


def written_out(dims: tuple[int, ...]) -> Layer:
    def call(x: Tensor, *params: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        shape = params[0].shape if dims[0] < 0 and params else (-1, *[1] * (x.dim() - 2))
        found = (x - mean) / (variance + 1e-5).sqrt()
        scaled = [part.reshape(shape) for part in params]
        found = found * scaled[0] if scaled else found
        return found + scaled[1] if len(scaled) > 1 else found

    return call


def case(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[tuple[Tensor, ...], list[list[Tensor]]]:
    """Where the layer is called, and directions for three derivatives."""
    params = [torch.randn(value.shape) for value in module.parameters()]
    at = (2 * torch.randn(shape) + 3, *params)
    return at, [[torch.randn_like(value) for value in at] for _ in range(3)]


def derivative(order: int, fn: Layer, directions: list[list[Tensor]]) -> Callable[..., Any]:
    """The gradient of a cubic of the layer, or of the square along a direction of the one below."""

    def scalar(*at: Tensor) -> Tensor:
        if order == 1:
            return (fn(*at) ** 3 * directions[0][0]).sum()
        slopes = derivative(order - 1, fn, directions)(*at)
        pairs = zip(slopes, directions[order - 1], strict=True)
        return torch.stack([(slope * along).sum() for slope, along in pairs]).sum() ** 2

    return lambda *at: autodiff.grad(scalar, tuple(range(len(at))))(*at)


def assert_right(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for part, other in zip(found, expected, strict=True):
        # Of sums of some hundred terms in float64, cancellation included.
        torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-10 * float(other.abs().max()))


@every_layer
def test_values_and_two_derivatives_are_torch_s_own_bit_for_bit(
    module: nn.Module, shape: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    if isinstance(module, BatchNorm2d):
        pytest.skip("ours, which is compared with the formula")
    at, directions = case(module, shape)
    ours, theirs = called(routed(copy.deepcopy(module))), called(module)
    assert torch.equal(ours(*at), theirs(*at))
    for order in (1, 2):
        found, expected = (derivative(order, fn, directions)(*at) for fn in (ours, theirs))
        assert all(map(torch.equal, found, expected))


@every_layer
def test_three_derivatives_are_those_of_the_formula_mapped_or_not(
    module: nn.Module, shape: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    at, directions = case(module, shape)
    ours, formula = called(routed(copy.deepcopy(module))), written_out(dims)
    stacked = [torch.stack([value, 0.7 * value]) for value in at]
    for order in (1, 2, 3):
        found, expected = (derivative(order, fn, directions) for fn in (ours, formula))
        assert_right(found(*at), expected(*at))
        assert_right(autodiff.vmap(found)(*stacked), autodiff.vmap(expected)(*stacked))


@pytest.mark.gpu
@every_layer
def test_a_third_derivative_on_a_gpu_is_that_of_a_cpu(
    module: nn.Module, shape: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    at, directions = case(module, shape)
    expected = derivative(3, written_out(dims), directions)(*at)
    there = trees.map_leaves(torch.Tensor.cuda, tuple(map(tuple, directions)))
    ours = called(routed(copy.deepcopy(module).cuda()))
    found = derivative(3, ours, there)(*(value.cuda() for value in at))
    assert_right(tuple(value.cpu() for value in found), expected)


def test_a_layer_with_other_statistics_than_the_batch_s_is_left_to_torch() -> None:
    x = torch.randn(5, 3)
    for module in (nn.BatchNorm1d(3).eval(), nn.LayerNorm(3).float()):
        x = x.to(module.weight.dtype)
        assert torch.equal(routed(copy.deepcopy(module))(x), module(x))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        routed(nn.BatchNorm1d(3, **BATCH))(torch.ones(1, 3))


@pytest.mark.parametrize(
    "make",
    [partial(nn.LayerNorm, 5), partial(nn.BatchNorm1d, 5, **BATCH)],
    ids=["layer", "batch"],
)
def test_the_weights_of_learning_to_reweight_have_the_derivative_of_their_differences(
    make: Callable[[], nn.Module],
) -> None:
    """It holds a gradient of gradients, so that its derivative is a third one to torch."""

    def module() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 5), make(), nn.Tanh(), nn.Linear(5, 2))

    model, x, y = functional(module), torch.randn(7, 3), torch.randn(7, 2)
    params = model.init(torch.Generator().manual_seed(0))
    along, row = {n: torch.randn_like(v) for n, v in params.items()}, torch.randn(7)

    def weights(params: Params) -> Tensor:
        def losses(params: Params) -> Tensor:
            return (model.apply(params, x) - y).square().sum(1)

        return (row * alignments(losses, along, params)).sum()

    found = trees.dot(autodiff.grad(weights)(params), along)
    step = 1e-5
    ends = [weights(trees.axpy(sign * step, along, params)) for sign in (1.0, -1.0)]
    # The error of a central difference: step^2 = 1e-10, and rounding of 1e-16 / step.
    torch.testing.assert_close(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)

"""Models are those of the literature: their sizes, their formulas, and a head of their own."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from configs import composed, options
from hydra.utils import instantiate
from problems import seeded
from torch import Tensor
from torch.nn import functional as F

from bilevel_cli.core import autodiff
from bilevel_cli.core.trees import Params
from bilevel_cli.models import Conv4, ConvNet, Linear, LinearNoBias, Mlp
from bilevel_cli.nn.building import Shape, build
from bilevel_cli.nn.functional import Functional, functional

CPU = torch.device("cpu")
MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def built(option: str, input_shape: Shape, num_outputs: int = 10) -> Functional:
    return build(instantiate(composed(f"model={option}").model), input_shape, num_outputs, CPU)


def anywhere(model: Functional) -> Params:
    """Parameters away from the start, where scales are one, shifts zero and may hide an error."""
    drawn = model.init(seeded(0))
    return {name: value + 0.3 * torch.randn_like(value) for name, value in drawn.items()}


@pytest.mark.parametrize("option", options("model"))
def test_apply_is_the_module_with_those_parameters_loaded(option: str) -> None:
    model = built(option, DIGITS, 3)
    params, x = anywhere(model), torch.randn(5, *DIGITS)
    own = {name: value.clone() for name, value in model.named_parameters()}
    reference = copy.deepcopy(model.module)
    reference.load_state_dict(params)

    def loss(params: Params, x: Tensor) -> Tensor:
        return model.apply(params, x).square().sum()

    assert torch.equal(model.apply(params, x), reference(x))
    found = autodiff.grad(loss)(params, x)
    with torch.enable_grad():
        torch.autograd.backward(reference(x).square().sum())
    expected = {name: value.grad for name, value in reference.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dict(model.named_parameters()), own, rtol=0, atol=0)


# For 10 classes: input features of the head, and the number of all parameters, from the papers or
# by hand. Conv-4: 3x3 convolutions with bias, and scale and shift of the normalisation,
# (9 c + 1) 64 + 2 * 64 of the first block. ConvNet: the 320 010 parameters of the code of Zhao et
# al. (2021); for one channel theirs pads the first convolution by 3, and ours does not.
SIZES: dict[tuple[str, Shape], tuple[int, int]] = {
    ("linear", MNIST): (784, 7_850),
    ("linear", CIFAR): (3072, 30_730),
    ("mlp", MNIST): (300, 238_510),
    ("mlp", CIFAR): (300, 3073 * 300 + 3_010),
    ("conv4", MNIST): (64, 640 + 128 + 3 * (36_928 + 128) + 650),
    ("conv4", CIFAR): (64 * 2 * 2, 1_792 + 128 + 3 * (36_928 + 128) + 2_570),
    ("conv4", (3, 84, 84)): (64 * 5 * 5, 1_792 + 128 + 3 * (36_928 + 128) + 16_010),
    ("conv4", DIGITS): (64, 640 + 128 + 3 * (36_928 + 128) + 650),
    ("convnet", CIFAR): (128 * 4 * 4, 320_010),
}


@pytest.mark.parametrize(("option", "input_shape"), SIZES)
def test_sizes_are_those_of_the_literature(option: str, input_shape: Shape) -> None:
    model = built(option, input_shape)
    features, total = SIZES[option, input_shape]
    params = model.init(seeded(0))
    assert params["head.weight"].shape == (10, features)
    assert params["head.bias"].shape == (10,)
    assert sum(value.numel() for value in params.values()) == total


@pytest.mark.parametrize("option", options("model"))
def test_every_model_has_a_head_which_few_shot_learning_adapts_alone(option: str) -> None:
    # adapt=head makes every other parameter outer, and convex inner problems of the head.
    model = built(option, (3, 16, 16), 5)
    params, x = model.init(seeded(0)), torch.randn(4, 3, 16, 16)
    head = {name: value for name, value in params.items() if name.startswith("head.")}
    names = {"head.weight"} if option == "linear_no_bias" else {"head.weight", "head.bias"}
    assert {name: value.shape[0] for name, value in head.items()} == dict.fromkeys(names, 5)
    base, shifted = (
        model.apply(params | {name: a * value for name, value in head.items()}, x)
        for a in (1.0, 3.0)
    )
    torch.testing.assert_close(shifted, 3 * base, rtol=1e-10, atol=1e-12)


def textbook_conv4(params: Params, x: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
    """Convolution, batch normalisation, ReLU, pooling; in the order of Vinyals et al."""
    for convolution, norm in blocks:
        weight, bias = (params[f"features.{convolution}.{name}"] for name in ("weight", "bias"))
        scale, shift = (params[f"features.{norm}.{name}"] for name in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, padding=1)
        x = F.batch_norm(x, None, None, scale, shift, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


def test_pooling_before_the_relu_is_the_textbook_network() -> None:
    model = build(partial(Conv4, 8), (1, 20, 20), 5, CPU)
    params, x = anywhere(model), torch.randn(6, 1, 20, 20)
    blocks = [(4 * block, 4 * block + 1) for block in range(4)]

    def loss(apply: Callable[[Params, Tensor], Tensor]) -> Callable[[Params], Tensor]:
        return lambda params: F.cross_entropy(apply(params, x), torch.arange(6) % 5)

    def textbook(params: Params, x: Tensor) -> Tensor:
        return textbook_conv4(params, x, blocks)

    # Batch normalisation sums in another order.
    torch.testing.assert_close(model.apply(params, x), textbook(params, x), rtol=1e-12, atol=1e-13)
    found, expected = (autodiff.grad(loss(fn))(params) for fn in (model.apply, textbook))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_convnet_is_the_network_of_dataset_condensation() -> None:
    model = build(partial(ConvNet, 8, 2), (3, 9, 8), 5, CPU)
    params, x = anywhere(model), torch.randn(6, 3, 9, 8)
    expected = x
    for block in range(2):
        weight, bias = (params[f"features.{4 * block}.{name}"] for name in ("weight", "bias"))
        scale, shift = (params[f"features.{4 * block + 1}.{name}"] for name in ("weight", "bias"))
        expected = F.conv2d(expected, weight, bias, padding=1)
        expected = F.instance_norm(expected, weight=scale, bias=shift)
        expected = F.avg_pool2d(F.relu(expected), 2)
    expected = F.linear(expected.flatten(1), params["head.weight"], params["head.bias"])
    torch.testing.assert_close(model.apply(params, x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "softplus", "identity"])
def test_mlp_is_its_formula(activation: str) -> None:
    model = build(partial(Mlp, 7, 2, activation), (2, 3), 5, CPU)
    params, x = model.init(seeded(0)), torch.randn(6, 2, 3)
    phi: Callable[[Tensor], Tensor] = getattr(F, activation, lambda x: x)
    hidden = x.flatten(1)
    for layer in ("hidden.0", "hidden.1"):
        hidden = phi(hidden @ params[f"{layer}.weight"].T + params[f"{layer}.bias"])
    expected = hidden @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(model.apply(params, x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", [Linear, LinearNoBias])
def test_linear_begins_at_zero_whatever_the_seed(model: type[Linear]) -> None:
    for value in functional(lambda: model((2, 3), 4)).init(seeded(7)).values():
        assert torch.equal(value, torch.zeros_like(value))


def test_linear_without_bias_is_a_matrix_alone() -> None:
    model = built("linear_no_bias", MNIST)
    params, x = anywhere(model), torch.randn(6, *MNIST)
    assert {name: tuple(value.shape) for name, value in params.items()} == {
        "head.weight": (10, 784)
    }
    expected = x.flatten(1) @ params["head.weight"].T
    torch.testing.assert_close(model.apply(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mlp(0, 1, "relu", (2,), 2), r"Mlp needs width >= 1, got width=0. Set model.width"),
        (lambda: Mlp(3, 0, "relu", (2,), 2), "Mlp needs depth >= 1, got depth=0"),
        (lambda: Mlp(3, 1, "cube", (2,), 2), "elu, gelu, identity, .* got activation=cube"),
        (lambda: Conv4(0, DIGITS, 2), "Conv4 needs width >= 1"),
        (lambda: Conv4(4, (64,), 2), r"Conv4 needs images .* shape \[64\]. Use model=linear or"),
        (lambda: ConvNet(4, 0, CIFAR, 2), "ConvNet needs depth >= 1"),
        (lambda: ConvNet(4, 3, (30,), 2), r"ConvNet needs images of shape .* shape \[30\]"),
        (lambda: ConvNet(4, 4, DIGITS, 2), r"sides >= 2\^depth = 16, got \[8, 8\]. Lower model.d"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

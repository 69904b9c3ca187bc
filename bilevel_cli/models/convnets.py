"""Inner models: ordinary torch modules of the literature."""

import math
from itertools import pairwise

from torch import Tensor, nn

from bilevel_cli.nn.building import Shape, build
from bilevel_cli.nn.functional import Functional, functional
from bilevel_cli.nn.normalization import BatchNorm2d
from bilevel_cli.nn.pooling import AvgPool2x2, MaxPool2x2

__all__ = [
    "Conv4",
    "ConvNet",
    "Functional",
    "Linear",
    "LinearNoBias",
    "Mlp",
    "Shape",
    "build",
    "functional",
]


def _check_width(model: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{model} needs {name} >= 1, got {name}={size}. Set model.{name}.")


def _check_image(model: str, input_shape: Shape) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"{model} needs images of shape [channels, height, width], got inputs of shape "
            f"{list(input_shape)}. Use model=linear or model=mlp."
        )


class Linear(nn.Module):
    """One affine layer on the flattened input, begun at zero: softmax regression.

    Args:
        input_shape: Shape of one input.
        num_outputs: Number of outputs.
    """

    bias = True

    def __init__(self, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        self.head = _ZeroLinear(math.prod(input_shape), num_outputs, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class LinearNoBias(Linear):
    """As `Linear`, without a constant term."""

    bias = False


class _ZeroLinear(nn.Linear):
    # The convex problem has one minimiser, and zero is the start that favours no class.
    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Mlp(nn.Module):
    """Affine layers with an activation between them, on the flattened input.

    Args:
        width: Number of units of each hidden layer.
        depth: Number of hidden layers.
        activation: Name of an activation in torch.nn.functional, or "identity" for none.
        input_shape: Shape of one input.
        num_outputs: Number of outputs.
    """

    def __init__(
        self, width: int, depth: int, activation: str, input_shape: Shape, num_outputs: int
    ) -> None:
        super().__init__()
        _check_width("Mlp", width=width, depth=depth)
        activations = {"relu", "softplus", "sigmoid", "tanh", "gelu", "silu", "elu", "identity"}
        if activation not in activations:
            raise ValueError(
                f"Mlp needs one of the activations {', '.join(sorted(activations))}, "
                f"got activation={activation}."
            )
        identity = activation == "identity"
        self.activation = nn.Identity() if identity else getattr(nn.functional, activation)
        sizes = [math.prod(input_shape), *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.head(x)


class Conv4(nn.Module):
    """The four-block network of few-shot learning (Vinyals et al., 2016, arXiv:1606.04080).

    Each block is a 3x3 convolution, batch normalisation by the statistics of the batch at hand,
    2x2 max-pooling and ReLU; pooling ends where a side is down to one pixel, which admits small
    images. Then one affine layer, `head`. ReLU and pooling commute, exactly; this order takes 0.8
    of the time of the forward pass.

    Args:
        width: Number of filters of each block.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        _check_width("Conv4", width=width)
        _check_image("Conv4", input_shape)
        channels, *sides = input_shape
        blocks: list[nn.Module] = []
        for _ in range(4):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=1),
                BatchNorm2d(width),
            ]
            if min(sides) >= 2:
                blocks.append(MaxPool2x2())
                sides = [side // 2 for side in sides]
            blocks.append(nn.ReLU())
            channels = width
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * math.prod(sides), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class ConvNet(nn.Module):
    """The network of dataset distillation (Gidaris & Komodakis, 2018; Zhao et al., 2021).

    Each block is a 3x3 convolution, instance normalisation, ReLU and 2x2 average-pooling
    (arXiv:2006.05929); then one affine layer, `head`. As there, images of one channel are padded
    by 3 pixels in the first block, which makes 32x32 of MNIST's 28x28.

    Args:
        width: Number of filters of each block.
        depth: Number of blocks; an image needs sides of at least 2^depth pixels.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, depth: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        _check_width("ConvNet", width=width, depth=depth)
        _check_image("ConvNet", input_shape)
        channels, *sides = input_shape
        padding = 3 if channels == 1 else 1
        sides = [side + 2 * (padding - 1) for side in sides]
        if min(sides) < 2**depth:
            raise ValueError(
                f"ConvNet needs images with sides >= 2^depth = {2**depth}, "
                f"got {list(input_shape[1:])}. Lower model.depth."
            )
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=padding),
                nn.GroupNorm(width, width),  # one group a channel: instance normalisation
                nn.ReLU(),
                AvgPool2x2(),
            ]
            channels, padding, sides = width, 1, [side // 2 for side in sides]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * math.prod(sides), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))

"""One affine layer."""

import math

from torch import Tensor, nn

from bilevel_cli.nn.building import Shape


class Linear(nn.Module):
    """One affine layer on the flattened input, begun at zero: softmax regression.

    Args:
        input_shape: Shape of one input.
        num_outputs: Number of outputs.
    """

    bias = True

    def __init__(self, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        self.head = ZeroLinear(math.prod(input_shape), num_outputs, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class LinearNoBias(Linear):
    """As `Linear`, without a constant term."""

    bias = False


class Projection(nn.Module):
    """One affine layer on the flattened input, begun at random: for features that stay as they are.

    Args:
        input_shape: Shape of one input.
        num_outputs: Number of outputs.
    """

    def __init__(self, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(math.prod(input_shape), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class ZeroLinear(nn.Linear):
    """An affine layer whose parameters begin at zero, the start that favours no class."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

"""A network with one hidden layer."""

import math

from torch import Tensor, nn


class TwoLayers(nn.Module):
    """Affine, tanh, affine, on the flattened input.

    Args:
        width: Number of hidden units.
        input_shape: Shape of one input. Given by the run to a constructor that names it.
        num_outputs: Number of outputs. Likewise.
    """

    def __init__(self, width: int, input_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        # Your layers go here. A smooth activation has second derivatives everywhere.
        self.body = nn.Sequential(nn.Linear(math.prod(input_shape), width), nn.Tanh())
        self.head = nn.Linear(width, num_outputs)  # by this name for task.adapt=head

    def forward(self, x: Tensor) -> Tensor:
        # From [batch, *input_shape] to [batch, num_outputs]: a function of x and the parameters,
        # which draws no random numbers and changes nothing in place.
        return self.head(self.body(x.flatten(1)))

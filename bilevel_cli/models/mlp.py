"""Fully connected networks."""

import math
from itertools import pairwise

from torch import Tensor, nn

from bilevel_cli.models.sizes import check_width
from bilevel_cli.nn.building import Shape


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
        check_width("Mlp", width=width, depth=depth)
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

"""A network whose cell is a small graph, with a mixture of operations on every edge."""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel_cli.nn.building import Shape
from bilevel_cli.nn.normalization import BatchNorm2d

ARCHITECTURE = "architecture"  # the parameter that weighs the operations
ZERO, SKIP = "zero", "skip"


class MaxPool(nn.Module):
    """The largest of 3x3 pixels around each pixel.

    By maxima of shifted images: torch's own pooling does not repeat itself on a GPU. Of equal
    entries each has its share of the derivative.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
        x = torch.maximum(torch.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])
        return torch.maximum(torch.maximum(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])


def _normalised(width: int) -> nn.Module:
    """Batch normalisation without scale and shift, which would weigh an operation a second time."""
    return BatchNorm2d(width).requires_grad_(False)


def _conv(width: int) -> nn.Module:
    filters = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(nn.ReLU(), filters, _normalised(width))


def _avg_pool(width: int) -> nn.Module:
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Sequential(pool, _normalised(width))


def _max_pool(width: int) -> nn.Module:
    return nn.Sequential(MaxPool(), _normalised(width))


def _skip(width: int) -> nn.Module:
    del width
    return nn.Identity()


OPERATIONS = {SKIP: _skip, "conv": _conv, "avg_pool": _avg_pool, "max_pool": _max_pool}


class Mixture(nn.ModuleList):
    """The weighted sum of what some operations make of a node, [batch, channels, height, width]."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        parts = (w * operation(x) for w, operation in zip(weights, self, strict=True))
        return reduce(torch.add, parts)


class Cell(nn.Module):
    """A stem, one cell, and an affine layer `head` on the means over all pixels.

    Node 0 of the cell is the stem's output, a 3x3 convolution. Every other node adds up what comes
    from all nodes before it. On the edge e from node i to node j, that is

        sum_o softmax(architecture_e)_o operation_{e,o}(node_i)

    (Liu et al., 2019, arXiv:1806.09055). The first operation is always `zero`, which drops the
    edge. The others are `skip`, the identity; `conv`, ReLU and a 3x3 convolution; `avg_pool` and
    `max_pool`, over 3x3 pixels. All keep the shape, and all but `skip` are normalised over the
    batch, without scale and shift, as in that paper. The head sees all nodes but node 0. A row of
    a table is taken for an image of one row.

    Args:
        width: Channels of every node.
        nodes: Nodes besides node 0.
        operations: Names of the operations besides `zero`.
        input_shape: (channels, height, width) of one image, or (features,) of a row.
        num_outputs: Number of outputs.

    Attributes:
        architecture: The weights of the operations before their softmax, [edges, operations]. An
            entry of minus infinity takes an operation out.
        edges: The nodes at both ends of each edge, in the order of the rows of `architecture`.
        operations: The names of its columns.
    """

    def __init__(
        self, width: int, nodes: int, operations: list[str], input_shape: Shape, num_outputs: int
    ) -> None:
        super().__init__()
        for name, size in (("width", width), ("nodes", nodes)):
            if size < 1:
                raise ValueError(
                    f"Cell needs {name} >= 1, got {name}={size}. Set task.cell.{name}."
                )
        known = set(OPERATIONS) >= set(operations) and len(set(operations)) == len(operations)
        if not known or not operations:
            raise ValueError(
                f"Cell needs operations among {', '.join(OPERATIONS)}, each once, got "
                f"{list(operations)}. Set task.cell.operations; zero is always there."
            )
        if len(input_shape) not in (1, 3):
            raise ValueError(
                "Cell needs images of shape [channels, height, width] or rows of a table, got "
                f"inputs of shape {list(input_shape)}. Choose other data."
            )
        channels = input_shape[0] if len(input_shape) == 3 else 1
        self.operations = (ZERO, *operations)
        self.edges = [(i, j) for j in range(1, nodes + 1) for i in range(j)]
        filters = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(filters, BatchNorm2d(width))
        self.mixed = nn.ModuleList(
            Mixture(OPERATIONS[name](width) for name in operations) for _ in self.edges
        )
        self.head = nn.Linear(width * nodes, num_outputs)
        self.architecture = nn.Parameter(torch.zeros(len(self.edges), len(self.operations)))

    def forward(self, x: Tensor) -> Tensor:
        nodes = [self.stem(x if x.dim() == 4 else x[:, None, None])]
        weights = self.architecture.softmax(1)
        for number, (source, target) in enumerate(self.edges):
            mixture = self.mixed[number](nodes[source], weights[number, 1:])
            if target == len(nodes):
                nodes.append(mixture)
            else:
                nodes[target] = nodes[target] + mixture
        return self.head(torch.cat(nodes[1:], 1).mean((2, 3)))

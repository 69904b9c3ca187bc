"""Numbers of rows that a compiled loop need not check at every step, as they are known before."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# Each takes entries of its first argument and computes none.
ENTRIES = {
    aten.clone.default,
    aten.expand.default,
    aten.index.Tensor,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten._unsafe_index.Tensor,
    aten.unsqueeze.default,
    aten.view.default,
}


class Bound(NamedTuple):
    """All numbers in a tensor are at least `-below`, and less than `below`.

    Attributes:
        place: Which argument of the graph the tensor is.
        below: The rows of what is read by its numbers.
    """

    place: int
    below: int

    def holds(self, numbers: Tensor) -> bool:
        """Whether it is true of a tensor."""
        if not numbers.numel():
            return True
        least, largest = numbers.aminmax()
        return -self.below <= int(least) and int(largest) < self.below


def unchecked(body: fx.GraphModule, known: dict[int, Tensor | None]) -> list[Bound]:
    """Has a graph read rows without a check of their numbers, where these are entries of arguments.

    Args:
        body: The graph.
        known: The arguments, by place, that stay as they are; with their values, if these are of
            this graph alone: then nothing is left to be checked.

    Returns:
        What must hold of the arguments whose values are not known, before each call.
    """
    arguments = [node for node in body.graph.nodes if node.op == "placeholder"]
    places = {node: place for place, node in enumerate(arguments) if place in known}
    left: set[Bound] = set()
    for node in body.graph.nodes:
        if node.target is not aten.index.Tensor:
            continue
        found = _bounds(node, places)
        if found is None:
            continue
        values = [(bound, known[bound.place]) for bound in found]
        if any(numbers is not None and not bound.holds(numbers) for bound, numbers in values):
            continue
        left |= {bound for bound, numbers in values if numbers is None}
        node.target = aten._unsafe_index.Tensor
    body.recompile()
    return sorted(left)


def _bounds(node: fx.Node, places: dict[fx.Node, int]) -> list[Bound] | None:
    read: Any = node.args[0]
    numbers: Any = node.args[1]
    found = []
    for size, part in zip(read.meta["val"].shape, numbers, strict=False):
        if part is None:
            continue
        source = part
        while source.target in ENTRIES:
            source = source.args[0]
        if source not in places or source.meta["val"].dtype != torch.int64:
            return None
        found.append(Bound(places[source], size))
    return found

"""Sets over which inner problems are solved."""

import abc
import math
from dataclasses import dataclass

from bilevel_cli.core.trees import Params


class ConvexSet(abc.ABC):
    """A closed convex set of inner parameters.

    Its functions take and return trees of one structure, and change none. They can be
    differentiated and mapped, so that no tensor is asked for its value.
    """

    @abc.abstractmethod
    def project(self, point: Params) -> Params:
        """The nearest point of the set, of the shapes of `point`."""

    @abc.abstractmethod
    def free(self, point: Params) -> Params:
        """1 where an entry of `point` can move both ways within the set, 0 where it is held.

        Around a minimiser over the set, the held entries stay where they are, and only the others
        respond to the outer parameters.

        Returns:
            Numbers in the shapes and types of `point`.
        """


@dataclass(frozen=True)
class Box(ConvexSet):
    """{z : low <= z_i <= high}.

    The derivative of the projection is 0 where it clips and 1 elsewhere, on the bound too.

    Args:
        low: Lower bound of every entry; -inf for none.
        high: Upper bound of every entry; inf for none.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if math.isnan(self.low) or math.isnan(self.high) or not self.low < self.high:
            raise ValueError(f"Box needs low < high, got low={self.low}, high={self.high}.")

    def project(self, point: Params) -> Params:
        return {name: value.clamp(self.low, self.high) for name, value in point.items()}

    def free(self, point: Params) -> Params:
        return {
            name: ((value > self.low) & (value < self.high)).to(value)
            for name, value in point.items()
        }

"""Penalties of the inner parameters, with weights that are outer parameters."""

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Params

PREFIX = "log_penalty."


class Granularity:
    """Which inner parameters share a weight; those of a tensor, unless a subclass differs."""

    def key(self, name: str) -> str:
        """The name of the weight, or weights, of the inner parameter `name`."""
        return name

    def shape(self, parameter: Tensor) -> torch.Size:
        """The shape of its weights."""
        del parameter
        return torch.Size()


class PerParameter(Granularity):
    """A weight for every number: as many outer parameters as inner ones."""

    def shape(self, parameter: Tensor) -> torch.Size:
        return parameter.shape


class PerClass(Granularity):
    """A weight for every class: for each row of a matrix, and each entry of a vector."""

    def shape(self, parameter: Tensor) -> torch.Size:
        return torch.Size([*parameter.shape[:1], *(1 for _ in parameter.shape[1:])])


class PerLayer(Granularity):
    """A weight for every tensor: two for a layer with a bias."""


class Global(Granularity):
    """One weight for all parameters."""

    def key(self, name: str) -> str:
        del name
        return "all"


@dataclass(frozen=True)
class Penalty(abc.ABC):
    """R(z, lambda) = sum_j exp(lambda_j) r(z_j).

    Args:
        granularity: Which inner parameters share a lambda.
        initial: exp(lambda) before the first outer step, > 0.
        largest: Bound on exp(lambda). Without one, the weight of a useless parameter grows without
            end; and with an L2 penalty gradient descent needs lr * exp(lambda) < 2.
    """

    granularity: Granularity
    initial: float
    largest: float

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.largest < math.inf:
            raise ValueError(
                f"{type(self).__name__} needs 0 < initial <= largest < infinity, got "
                f"initial={self.initial}, largest={self.largest}. Set task.penalty."
            )

    @abc.abstractmethod
    def entries(self, parameter: Tensor) -> Tensor:
        """r, entry by entry."""

    def init(self, inner: Params) -> Params:
        """The outer parameters before the first step, for inner parameters like `inner`."""
        log = math.log(self.initial)
        return {
            PREFIX + self.granularity.key(name): value.new_full(self.granularity.shape(value), log)
            for name, value in inner.items()
        }

    def __call__(self, inner: Params, outer: Params) -> Tensor:
        parts = [
            (outer[PREFIX + self.granularity.key(name)].exp() * self.entries(value)).sum()
            for name, value in inner.items()
        ]
        return torch.stack(parts).sum()

    def project(self, outer: Params) -> Params:
        """`outer` with the weights at most `largest`."""
        log = math.log(self.largest)
        return {n: v.clamp(max=log) if n.startswith(PREFIX) else v for n, v in outer.items()}

    def values(self, outer: Params) -> Params:
        """The weights exp(lambda), by the names of what they penalise."""
        return {f"penalty.{n}": value.exp() for n, value in trees.under(PREFIX, outer).items()}


class L2(Penalty):
    """r(z) = z^2 / 2: weight decay.

    Args: as `Penalty`.
    """

    def entries(self, parameter: Tensor) -> Tensor:
        return 0.5 * parameter.square()


@dataclass(frozen=True)
class SmoothedL1(Penalty):
    """r(z) = sqrt(z^2 + eps^2) - eps, which differs from |z| by less than eps.

    Its curvature is at most exp(lambda) / eps, at zero.

    Args:
        granularity: As of `Penalty`.
        initial: As of `Penalty`.
        largest: As of `Penalty`; gradient descent needs lr * largest < 2 * eps.
        eps: Where the absolute value is rounded, > 0.
    """

    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps < math.inf:
            raise ValueError(
                f"SmoothedL1 needs a finite eps > 0, got eps={self.eps}. Set task.penalty.eps."
            )

    def entries(self, parameter: Tensor) -> Tensor:
        return (parameter.square() + self.eps**2).sqrt() - self.eps

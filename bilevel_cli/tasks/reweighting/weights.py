"""How outer parameters, one for every training example, become weights."""

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Weights(abc.ABC):
    """A parametrisation of the weights of training examples.

    Attributes:
        name: The name of the outer parameter, which has shape [n].
        threshold: The weight from which an example counts as called clean.
        probabilities: Whether weights are probabilities and the parameters are their log-odds.
    """

    name: str = "weights"
    threshold: float
    probabilities: bool = False

    @abc.abstractmethod
    def init(self, count: int) -> Tensor:
        """The parameters before the first outer step, of shape [count], on the CPU."""

    def of(self, parameters: Tensor) -> Tensor:
        """The weights, entry by entry."""
        return parameters

    def project(self, parameters: Tensor) -> Tensor:
        """The nearest admissible parameters, of the same shape; all are, unless a class differs."""
        return parameters


@dataclass(frozen=True)
class Sigmoid(Weights):
    """w = sigmoid(lambda). Called clean from 1/2.

    Args:
        initial_logit: lambda_i at first: 0 for weights of 1/2.
    """

    initial_logit: float

    name = "weight_logits"
    threshold = 0.5
    probabilities = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.initial_logit):
            raise ValueError(
                f"Sigmoid needs a finite initial_logit, got initial_logit={self.initial_logit}. "
                "Set task.weights.initial_logit."
            )

    def init(self, count: int) -> Tensor:
        return torch.full((count,), float(self.initial_logit))

    def of(self, parameters: Tensor) -> Tensor:
        return parameters.sigmoid()


@dataclass(frozen=True)
class Free(Weights):
    """w = lambda, kept at 0 or above. Called clean from half the initial weight.

    Args:
        initial: lambda_i at first, > 0.
    """

    initial: float

    def __post_init__(self) -> None:
        if not 0 < self.initial < math.inf:
            raise ValueError(
                f"Free needs a finite initial > 0, got initial={self.initial}. "
                "Set task.weights.initial."
            )

    @property
    def threshold(self) -> float:  # type: ignore[override]
        return self.initial / 2

    def init(self, count: int) -> Tensor:
        return torch.full((count,), float(self.initial))

    def project(self, parameters: Tensor) -> Tensor:
        return parameters.clamp(min=0)


class Simplex(Weights):
    """w_i >= 0 with mean 1: n times a distribution over the examples. Called clean from 1/2.

    `optimizer=mirror_descent` moves them as Ivanova & Ablin (2023) do, and needs no projection.
    For others, negative weights are made 0 and all are scaled.
    """

    threshold = 0.5

    def init(self, count: int) -> Tensor:
        return torch.ones(count)

    def project(self, parameters: Tensor) -> Tensor:
        clipped = parameters.clamp(min=0)
        return clipped / clipped.mean().clamp(min=torch.finfo(clipped.dtype).tiny)

"""Numbers that change as a run goes on: step sizes that fall, multipliers that rise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.trees import Scalar


@dataclass(frozen=True)
class PowerLaw:
    """initial / (k + 1)^exponent at step k = 0, 1, ...: the schedules of stochastic approximation.

    Args:
        initial: The value at k = 0, > 0 and finite.
        exponent: >= 0 and finite; 0 for a constant. The theory of SGD asks for one in (1/2, 1].

    Raises:
        ValueError: A setting is out of its range.
    """

    initial: float
    exponent: float

    def __post_init__(self) -> None:
        if not 0 < self.initial < math.inf:
            raise ValueError(f"PowerLaw needs a finite initial > 0, got initial={self.initial}.")
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"PowerLaw needs exponent >= 0, got exponent={self.exponent}.")

    def __call__(self, step: Scalar) -> Scalar:
        """The value at a step: a number for a number, a 0-dim tensor for one on any device."""
        return self.initial / (step + 1) ** self.exponent


@dataclass(frozen=True)
class Ramp:
    """A line from `initial` to `final` over the first `steps` outer steps; then `final`.

    Args:
        initial: The value at the first outer step, > 0.
        final: The value from outer step `steps` on, >= initial and finite.
        steps: Outer steps of the ramp, >= 0; 0 for `final` from the beginning.

    Raises:
        ValueError: A setting is out of its range.
    """

    initial: float
    final: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.final < math.inf:
            raise ValueError(
                "A ramp of multipliers needs 0 < initial <= final < inf, got "
                f"initial={self.initial}, final={self.final}. Set method.gamma, e.g. 1 and 10."
            )
        if self.steps < 0:
            raise ValueError(f"A ramp of multipliers needs steps >= 0, got steps={self.steps}.")

    def __call__(self, step: Tensor) -> Tensor:
        """The value at outer step `step`, counted from 0: 0-dim floating tensors, on one device."""
        way = (step / self.steps).clamp(max=1.0) if self.steps else torch.ones_like(step)
        return self.initial + (self.final - self.initial) * way

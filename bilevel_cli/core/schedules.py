"""Step sizes that fall as a run goes on."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR

from bilevel_cli.core.trees import Scalar


class Constant(ConstantLR):
    """The step size stays as it is.

    Args:
        optimizer: Whose step size.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, factor=1.0)  # torch's factor of a few steps is not for the user


@dataclass(frozen=True)
class PowerLaw:
    """initial / (k + 1)^exponent at step k = 0, 1, ...: the schedules of stochastic approximation.

    Args:
        initial: The value at k = 0, > 0.
        exponent: 0 for a constant; the theory of SGD asks for one in (1/2, 1].
    """

    initial: float
    exponent: float

    def __post_init__(self) -> None:
        if not 0 < self.initial < math.inf:
            raise ValueError(f"PowerLaw needs a finite initial > 0, got initial={self.initial}.")
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"PowerLaw needs exponent >= 0, got exponent={self.exponent}.")

    def __call__(self, step: Scalar) -> Scalar:
        """The value at step `step`, a number or a 0-dim tensor."""
        return self.initial / (step + 1) ** self.exponent

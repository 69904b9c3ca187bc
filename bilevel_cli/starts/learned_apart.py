"""Every inner solve begins at outer parameters, which have a step size of their own."""

import math
from dataclasses import dataclass

from bilevel_cli.starts.learned import Learned


@dataclass(frozen=True)
class LearnedApart(Learned):
    """As `Learned`, but the start has an outer step size of its own.

    IAPTT-GM needs that where the other outer parameters are of another scale. Its released code for
    hyper-cleaning moves the logits of the weights by Adam with step size 0.01, and the start by
    gradient descent with 0.03. Here both are moved by the run's optimizer, on its schedule.

    Args:
        lr: The step size of the start, > 0.
    """

    lr: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(
                f"LearnedApart needs a finite lr > 0, got lr={self.lr}. Set start.lr, "
                "or use start=learned for the step size of the optimizer."
            )

    def step_size(self) -> float:
        return self.lr

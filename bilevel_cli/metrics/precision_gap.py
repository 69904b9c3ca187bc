"""What lower precision costs the hypergradient."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import episodes
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.machine import precision
from bilevel_cli.metrics.base import Metric, StepView
from bilevel_cli.metrics.hypergradient_gap import relative_error

COLUMN = "precision_relative_error"


@dataclass(frozen=True)
class PrecisionGap(Metric):
    """Relative error |g - r| / |r| of the estimate g, where r is g with all products in float32.

    r is what `device.matmul_precision=highest` and `device.precision=null` give, without TF32 and
    bf16, for the same outer parameters, data and memory. So the error is 0 where the run computes
    in that way too, if a GPU is told to repeat itself (`device.deterministic=true`). It costs one
    more estimate at each row, in the memory that float32 takes.

    Args:
        method: The method of the run.
    """

    method: Hypergradient[Any]

    def measure(self, view: StepView) -> dict[str, Tensor]:
        with precision.precision("highest"):
            step = episodes.outer_step(self.method, view.loop)
            reference = step(view.outer, view.data, view.carry).grad
        return {COLUMN: relative_error(view.estimate.grad, reference)}

"""What the precision of products costs the hypergradient."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import episodes
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.machine import precision
from bilevel_cli.metrics.base import Metric, StepView
from bilevel_cli.metrics.hypergradient_gap import relative_error


@dataclass(frozen=True)
class PrecisionGap(Metric):
    """Relative error |g - r| / |r| of the estimate g to r, the same with products in float32.

    That is `device.matmul_precision=highest`: no TF32, no bf16. On the same outer parameters, data
    and memory; so 0 where the run computes that way too, and a GPU is told to repeat itself
    (`device.deterministic=true`). Costs one more estimate at each row.

    Args:
        method: The method of the run.
    """

    method: Hypergradient[Any]

    def measure(self, view: StepView) -> dict[str, Tensor]:
        with precision.precision("highest"):
            step = episodes.outer_step(self.method, view.loop)
            reference = step(view.outer, view.data, view.carry).grad
        return {"precision_relative_error": relative_error(view.estimate.grad, reference)}

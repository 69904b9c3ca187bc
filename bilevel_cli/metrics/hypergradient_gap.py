"""The distance of the hypergradient to that of another method."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli import episodes, trees
from bilevel_cli.methods.base import Hypergradient
from bilevel_cli.metrics.base import Metric, StepView


@dataclass(frozen=True)
class HypergradientGap(Metric):
    """Relative error |g - r| / |r| and cosine of the estimate g to that of a reference r.

    The reference sees the same outer parameters, data and inner start; a step is a pure function.
    Costs one estimate of the reference at each row.

    Args:
        reference: The method to compare with.
    """

    reference: Hypergradient[Any]

    def measure(self, view: StepView) -> dict[str, Tensor]:
        carry = episodes.begin(
            self.reference, view.loop, view.outer, view.data, view.carry["inner"]
        )
        step = episodes.outer_step(self.reference, view.loop)
        found, reference = view.estimate.grad, step(view.outer, view.data, carry).grad
        gap, norm = trees.norm(trees.axpy(-1.0, reference, found)), trees.norm(reference)
        norms = norm * trees.norm(found)
        # A gradient of zero has no direction: cosine 0. One of a zero reference is an absolute gap.
        return {
            "gap_relative_error": gap / torch.where(norm > 0, norm, 1.0),
            "gap_cosine": trees.dot(found, reference) / torch.where(norms > 0, norms, 1.0),
        }

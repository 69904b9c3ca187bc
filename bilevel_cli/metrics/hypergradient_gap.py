"""The distance of the hypergradient to that of another method."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import episodes, trees
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.trees import Params
from bilevel_cli.metrics.base import Metric, StepView


@dataclass(frozen=True)
class HypergradientGap(Metric):
    """Relative error |g - r| / |r| and cosine of the estimate g to that of a reference method, r.

    The reference sees the same outer parameters, data and inner start. It costs one estimate of the
    reference at each row.

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
        norms = trees.norm(reference) * trees.norm(found)
        # A gradient of zero has no direction: cosine 0.
        return {
            "gap_relative_error": relative_error(found, reference),
            "gap_cosine": trees.dot(found, reference) / torch.where(norms > 0, norms, 1.0),
        }


def relative_error(found: Params, reference: Params) -> Tensor:
    """|found - reference| / |reference|, and |found| where the reference is zero. 0-dim."""
    norm = trees.norm(reference)
    gap = trees.norm(trees.axpy(-1.0, reference, found))
    return gap / torch.where(norm > 0, norm, 1.0)

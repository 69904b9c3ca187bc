"""The average of the outer parameters over the steps of a run."""

from collections.abc import Mapping
from typing import Any

import torch

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Params, Scalar

NAME = "average"  # of its entry in checkpoints, and among what moves in a fused step


class Average:
    """An exponential average of the outer parameters, corrected for its beginning.

    After t steps it is the mean of lambda_1, ..., lambda_t with weights in proportion to
    decay^(t - s). The correction is Adam's (Kingma & Ba, 2015, arXiv:1412.6980): the start lambda_0
    has no weight after the first step, so a short run does not score where it began. Dataset
    distillation scores such averages of its images (Du et al., 2023, arXiv:2211.11004). Costs one
    more copy of the outer parameters.

    Args:
        decay: What the average keeps of itself at a step, in (0, 1); None for no average.
        outer: The outer parameters before the first step, of any shapes.

    Attributes:
        params: The average, with the keys and shapes of `outer`, changed in place; empty without.
    """

    def __init__(self, decay: float | None, outer: Params) -> None:
        self.decay = decay
        self.params: Params = {} if decay is None else trees.map_leaves(torch.clone, outer)

    def share(self, step: int) -> float:
        """The weight of the newest outer parameters in their average after `step` >= 1 steps."""
        return 1.0 if self.decay is None else (1 - self.decay) / (1 - self.decay**step)

    def take(self, outer: Params, step: int) -> None:
        """Takes in the outer parameters after a step with this number, from 1 on."""
        if self.params:
            self.become(joined(self.params, outer, self.share(step)))

    def become(self, after: Params) -> None:
        """Takes over the values of another average."""
        trees.map_leaves(trees.written, self.params, after)

    def saved(self) -> dict[str, Params]:
        """What a checkpoint holds of it; nothing without an average."""
        return {NAME: self.params} if self.params else {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint; from its outer parameters, where it has no average."""
        self.become(saved.get(NAME, saved["outer"]))


def joined(average: Params, outer: Params, share: Scalar) -> Params:
    """The average after a step: a pure function.

    Args:
        average: Before it.
        outer: The outer parameters after it.
        share: Their weight, a number or a 0-dim tensor.
    """
    return trees.axpy(share, outer, trees.scale(1 - share, average))

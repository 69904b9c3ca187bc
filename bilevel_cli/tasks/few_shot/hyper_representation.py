"""Hyper-representation: shared features, on which a new head is fitted to each episode."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bilevel_cli.core import trees
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Classes
from bilevel_cli.tasks.few_shot.classification import FEATURES_PREFIX, FewShot


class HyperRepresentation(FewShot):
    """Few-shot classification whose features are outer (Franceschi et al., 2018, arXiv:1806.04910).

        f(w, lambda) = CE of the support images + penalty * (|w|^2 + smoothing^2)^(power / 2)
        F(w, lambda) = CE of the query images

    w are the parameters with the prefix `adapt`, and lambda all others. Every inner problem begins
    at one point, which is drawn once by the model's own scheme and not learned. With start=learned
    it is learned, and method=iaptt is then IAPTT-GM (Liu et al., 2021, arXiv:2110.00455), whose
    penalty is not convex: 0 < power < 1. power=2 is ridge regression, which is strongly convex for
    an affine head, as implicit methods want it.

    Scores: as `FewShot`.

    Args:
        ways: Classes of an episode.
        shots: Support images of each class.
        queries: Query images of each class.
        episodes: Training episodes of an outer step.
        adapt: The prefix of the names of the inner parameters, such as "head".
        eval_episodes: Episodes of an evaluation, on validation and on test classes each.
        eval_steps: Inner steps of an evaluation.
        penalty: Weight of the penalty, >= 0; 0 for none.
        power: Exponent of the norm, in (0, 2].
        smoothing: What rounds the kink at w = 0, > 0.
        data: Images by class.
        model: The classifier, as conf/model builds it.
        device: Where the images live.
        generator: Draws the episodes of evaluations and the start.
    """

    def __init__(
        self,
        ways: int,
        shots: int,
        queries: int,
        episodes: int,
        adapt: str,
        eval_episodes: int,
        eval_steps: int,
        penalty: float,
        power: float,
        smoothing: float,
        data: Classes,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not (0 <= penalty < math.inf and 0 < power <= 2 and 0 < smoothing < math.inf):
            raise ValueError(
                "HyperRepresentation needs penalty >= 0, power in (0, 2] and smoothing > 0, got "
                f"penalty={penalty}, power={power}, smoothing={smoothing}. Set task.penalty=0 for "
                "no penalty."
            )
        super().__init__(
            ways,
            shots,
            queries,
            episodes,
            adapt,
            eval_episodes,
            eval_steps,
            data,
            model,
            device,
            generator,
        )
        self.penalty, self.power, self.smoothing = penalty, power, smoothing
        start = self.model.init(generator)
        self.fixed_start = {name: start[name] for name in self.inner_names}

    def init_outer(self, generator: torch.Generator) -> Params:
        everything = super().init_outer(generator)
        return {n: value for n, value in everything.items() if n.startswith(FEATURES_PREFIX)}

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        loss = super().loss_of_outputs(outputs, inner, outer, batch)
        if not self.penalty:
            return loss
        size2 = trees.dot(inner, inner) + self.smoothing**2
        return loss + self.penalty * size2 ** (self.power / 2)

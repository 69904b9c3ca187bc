"""Learned images teach a network to classify them."""

from dataclasses import dataclass

from torch import Tensor

from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.distillation.lessons.base import Lesson


@dataclass(frozen=True)
class Classification(Lesson):
    """f = mean_i CE(network z at image_i, label_i)."""

    def __call__(self, model: Functional, params: Params, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model.apply(params, x), y)

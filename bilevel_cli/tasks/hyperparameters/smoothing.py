"""Label smoothing of a learned strength."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from bilevel_cli.core.trees import Params

NAME = "label_smoothing_logit"


@dataclass(frozen=True)
class LabelSmoothing:
    """Cross-entropy with the target (1 - s) onehot(y) + s / C, where s = sigmoid(outer parameter).

    There are C classes. A constant s is that of Szegedy et al. (2016, arXiv:1512.00567).

    Args:
        initial: s before the first outer step, in (0, 1).
    """

    initial: float

    def __post_init__(self) -> None:
        if not 0 < self.initial < 1:
            raise ValueError(
                f"LabelSmoothing needs initial in (0, 1), got initial={self.initial}. "
                "Use task.smoothing=null for none."
            )

    def init(self) -> Params:
        return {NAME: torch.tensor(math.log(self.initial / (1 - self.initial)))}

    def losses(self, logits: Tensor, y: Tensor, outer: Params) -> Tensor:
        """The loss of each example.

        Args:
            logits: Of shape [n, C].
            y: Labels, of shape [n].
            outer: The outer parameters.
        """
        log = log_softmax(logits, 1)
        s = outer[NAME].sigmoid()
        return -(1 - s) * log.gather(1, y[:, None])[:, 0] - s * log.mean(1)

    def values(self, outer: Params) -> Params:
        return {"label_smoothing": outer[NAME].sigmoid()}

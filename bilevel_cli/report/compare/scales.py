"""What scores are compared on: themselves, or a scale on which they are not skewed by a bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Numbers = NDArray[np.float64]

NEAR = 0.25  # deviations of scores, in distances from a bound, above which they are skewed


@dataclass(frozen=True)
class Scale:
    """What scores are compared on: one without bounds, as a t test takes its numbers to be.

    Attributes:
        name: What it is called in sentences; "" for the scores as they are.
        free: From scores to the scale, increasing.
        back: From the scale to scores.
        low: The least score.
        high: The most.
    """

    name: str
    free: Callable[[Numbers], Numbers]
    back: Callable[[Numbers], Numbers]
    low: float
    high: float

    def distance(self, score: float) -> float:
        """The distance of a score from the nearer bound."""
        return min(score - self.low, self.high - score)


PLAIN = Scale("", np.asarray, np.asarray, -np.inf, np.inf)
LOGARITHMS = Scale("logarithms", np.log, np.exp, 0.0, np.inf)
LOGITS = Scale("logits", logit, expit, 0.0, 1.0)


def nearness(values: Numbers, low: float, high: float) -> Numbers:
    """The deviation of each sample in distances of its mean from the nearer bound.

    Args:
        values: Samples along the last axis, of two at least.
        low: The least that scores can be.
        high: The most.
    """
    mean = values.mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        near = values.std(axis=-1, ddof=1) / np.minimum(mean - low, high - mean)
    return np.nan_to_num(near, nan=0.0, posinf=np.inf)


def scale_of(samples: Sequence[Numbers], low: float, high: float) -> Scale:
    """The scale on which samples are compared.

    It is that of the scores, unless these are so near a bound that they cannot be nearly normal:
    where the `nearness` of half of the samples is above `NEAR`. Scores on a bound itself have no
    logarithm, and are compared as they are.

    Args:
        samples: The scores of each configuration.
        low: The least that scores can be.
        high: The most.
    """
    near = [float(nearness(one, low, high)) for one in samples if len(one) > 1]
    inside = all(((low < one) & (one < high)).all() for one in samples)
    if not near or not inside or np.median(near) <= NEAR:
        return PLAIN
    return LOGITS if np.isfinite(high) else LOGARITHMS

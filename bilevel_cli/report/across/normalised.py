"""Scores of different tasks on one scale, their means over tasks, and their profiles."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bilevel_cli.report.compare.comparison import Estimate
from bilevel_cli.report.compare.statistics import LEVEL, Measured, location, together

Numbers = NDArray[np.float64]

FLOOR = -0.5  # of the scale on which profiles are drawn
POINTS = 241  # of a profile


@dataclass(frozen=True)
class Scale:
    """(score - zero) / (one - zero): what part of the way from `zero` to `one` a run came.

    Attributes:
        zero: The mean score at step 0, where the outer parameters are as they began; or that of the
            worst configuration, where no run was scored there, or none became better.
        one: The mean score of the best configuration.
        from_start: Whether `zero` is the score at step 0.
    """

    zero: float
    one: float
    from_start: bool

    def of(self, scores: Numbers) -> Numbers:
        """The scores on this scale; where all are equal, 1. A run that failed keeps its -inf."""
        span = self.one - self.zero
        return 1 + (scores - self.one) / (span if span > 0 else 1.0)


def scale(start: float, means: Sequence[float]) -> Scale:
    """The scale of a task.

    Args:
        start: The mean score at step 0; NaN where no run was scored there.
        means: The mean score of each configuration that has one; more is better.
    """
    best = max(means)
    if start < best:
        return Scale(start, best, True)
    return Scale(min(means), best, False)


def finite(scores: Iterable[Numbers]) -> list[Numbers]:
    """The scores of each task, with a number for runs that failed.

    It is the worst of the task, and 0 at most: no mean is higher for a run that failed.

    Args:
        scores: For each configuration, its scores on one scale on one task.
    """
    scores = list(scores)
    every = np.concatenate([*scores, np.zeros(1)])
    worst = float(every[np.isfinite(every)].min())
    return [np.where(np.isfinite(one), one, worst) for one in scores]


def mean(scores: Sequence[Numbers]) -> Estimate:
    """The mean over tasks of the means over seeds, with its 95 % interval.

    The variance is that of a sum of independent means, and the degrees of freedom of Student's t
    are Welch's and Satterthwaite's. The tasks are those that were run: the interval says what other
    seeds might give, and nothing of other tasks.

    Args:
        scores: For each task the scores of one configuration, all finite.
    """
    found = [location(one) for one in scores]
    value = np.asarray(np.mean([one.value for one in found]))
    return _estimate(value, [one.error / len(scores) for one in found], scores)


def interquartile(scores: Sequence[Numbers]) -> Estimate:
    """The mean of the middle half of all runs of all tasks, with its 95 % interval.

    The value is that of Agarwal et al. (2021), whose interval, a percentile bootstrap of the runs
    of each task, is too narrow for few seeds. Here the runs left out at either end are replaced by
    the nearest that is kept, and the variance of the mean of these is taken within the tasks, as
    Tukey and McLaughlin (1963) do in one sample.

    Args:
        scores: For each task the scores of one configuration, all finite.
    """
    every = np.sort(np.concatenate(scores))
    cut = len(every) // 4
    kept = len(every) - 2 * cut
    value = every[cut : cut + kept].mean()
    within = [location(np.clip(one, every[cut], every[cut + kept - 1])) for one in scores]
    errors = [one.error * len(some) / kept for one, some in zip(within, scores, strict=True)]
    return _estimate(value, errors, scores)


def _estimate(value: Numbers, errors: Sequence[Numbers], scores: Sequence[Numbers]) -> Estimate:
    """An estimate to which each task adds something with an error; of one seed without interval."""
    n = sum(map(len, scores))
    if any(len(one) < 2 for one in scores):
        return Estimate(float(value), np.nan, np.nan, n)
    freedoms = [np.asarray(len(one) - 1.0) for one in scores]
    low, high = Measured(value, *together(errors, freedoms)).interval()
    return Estimate(float(value), float(low), float(high), n)


def profile(scores: Sequence[Numbers], thresholds: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """The part of the runs that came further than each threshold, averaged over tasks.

    The performance profile of Agarwal et al. (2021). Its interval is Wilson's at each threshold,
    which has a width also where all runs of a task came as far; for tasks that disagree it is wider
    than it need be, since the variance of a part is concave in it.

    Args:
        scores: For each task the scores of one configuration; -inf of runs that failed.
        thresholds: Numbers on the scale of the scores.

    Returns:
        The parts, and the ends of their 95 % intervals, one for each threshold.
    """
    parts = np.mean([(one[:, None] > thresholds).mean(0) for one in scores], axis=0)
    runs = len(scores) ** 2 / sum(1 / len(one) for one in scores)
    z2 = float(ndtri((1 + LEVEL) / 2)) ** 2 / runs
    middle = (parts + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * (parts * (1 - parts) + z2 / 4)) / (1 + z2)
    return parts, middle - half, middle + half


def thresholds(scores: Sequence[Sequence[Numbers]]) -> Numbers:
    """Where profiles are drawn: from the worst score of several configurations to the best.

    What is further below 0 than `FLOOR` is at the lower end: one failure would squeeze the rest.

    Args:
        scores: For each configuration and task its scores, -inf of runs that failed.
    """
    every = np.concatenate([one for some in scores for one in some])
    every = every[np.isfinite(every)]
    low, high = max(float(every.min(initial=1)), FLOOR), float(every.max(initial=1))
    room = 0.02 * (high - low) or 0.5
    return np.linspace(low - room, high + room, POINTS)

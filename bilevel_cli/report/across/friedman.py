"""Mean ranks over tasks, and how far apart they must be.

Demsar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7: each task
ranks its configurations, 1 for the best; Friedman's test asks whether all mean ranks may be equal,
and by chance two mean ranks differ by Nemenyi's critical difference in one table of twenty. Both
are usually taken from their limits for many tasks. A sweep has few, so that here both are counted
over random rankings, each as likely as another: so ranks are where no method is better.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.compare.statistics import LEVEL

Numbers = NDArray[np.float64]

DRAWS = 20_000  # random tables of ranks: a p-value of 0.05 is known to 0.0015


class Verdict(NamedTuple):
    """What a table of ranks shows.

    Attributes:
        means: The mean rank of each configuration.
        p: How often random rankings differ as much or more, by Friedman's statistic.
        critical: The smallest difference of two mean ranks which, as the largest of a table, has at
            most the chance of 5 % among random rankings; infinite where even the largest possible
            one has more.
    """

    means: Numbers
    p: float
    critical: float


def ranked(places: Sequence[Sequence[Any]]) -> Numbers:
    """The ranks of each task, 1 for the smallest place; those with equal places share the mean.

    Args:
        places: For each task, something that can be ordered for each configuration.

    Returns:
        tasks x configurations.
    """
    rows = []
    for row in places:
        below = [sum(other < one for other in row) for one in row]
        equal = [sum(other == one for other in row) for one in row]
        rows.append([b + (e + 1) / 2 for b, e in zip(below, equal, strict=True)])
    return np.asarray(rows, dtype=np.float64)


def verdict(ranks: Numbers) -> Verdict:
    """The verdict over a table of ranks.

    The random rankings permute the ranks of each task, ties included, for Friedman's test. The
    critical difference is that without ties, which is never smaller.

    Args:
        ranks: tasks x configurations.
    """
    tasks, count = ranks.shape
    means = ranks.mean(0)
    random = np.random.default_rng(0)  # the same runs give the same report
    spread, widest = np.zeros((DRAWS, count)), np.zeros((DRAWS, count))
    for row in ranks:
        spread += random.permuted(np.tile(row, (DRAWS, 1)), axis=1)
        widest += random.permuted(np.tile(np.arange(1.0, count + 1), (DRAWS, 1)), axis=1)
    variances = (spread / tasks).var(1)  # Friedman's statistic grows with it, and with it alone
    p = (1 + (variances >= means.var() - 1e-9).sum()) / (1 + DRAWS)
    return Verdict(means, float(p), _critical(np.ptp(widest, axis=1) / tasks))


def _critical(ranges: Numbers) -> float:
    """The smallest value of `ranges` that at most 5 % of them reach."""
    values, counts = np.unique(ranges.round(9), return_counts=True)
    reached = counts[::-1].cumsum()[::-1] / len(ranges)  # by value: the part at least as large
    rare = values[reached <= 1 - LEVEL]
    return float(rare[0]) if len(rare) else float("inf")

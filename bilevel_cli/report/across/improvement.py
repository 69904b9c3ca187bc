"""How probable it is that a run of one configuration beats a run of another.

Agarwal et al. (2021, arXiv:2108.13264): P(X > Y) of a random run of each on one task, ties counting
one half, averaged over the tasks. The value is that of their library rliable. Its interval, a
percentile bootstrap of the runs of each task, has no width where one of the two won all pairs, as
with three seeds it often does; `interval` covers.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # scipy.stats would take half a second to import

from bilevel_cli.report.compare.statistics import LEVEL

Numbers = NDArray[np.float64]

HALVINGS = 40  # of the interval in which an end is looked for: to 1e-12


def probability(x: Sequence[Numbers], y: Sequence[Numbers]) -> float:
    """P(X > Y) + P(X = Y) / 2, averaged over tasks.

    Args:
        x: For each task, the scores of the runs of one configuration; more is better. A run that
            failed has minus infinity: each that did not beats it, and each that did is equal.
        y: Those of the other, likewise.
    """
    return float(np.mean([_won(a, b) for a, b in zip(x, y, strict=True)]))


def _won(a: Numbers, b: Numbers) -> float:
    above = a[:, None] > b[None, :]
    equal = a[:, None] == b[None, :]
    return float((above + equal / 2).mean())


def interval(value: float, sizes: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of a probability of improvement: all p with (value - p)^2 <= z^2 V(p).

    On one task V is the variance of the statistic of Mann and Whitney, as Hanley and McNeil (1982)
    have it for a given p. Taken at the p that is tried, instead of at `value`, it is not zero where
    one of the two won all pairs (Newcombe 2006, method 5, for one task). V is concave in p: its
    mean over tasks is at most that at the mean of p, which is used. So the interval is wider than
    it need be where tasks disagree, or seeds have much in common.

    Args:
        value: As `probability` returns it.
        sizes: For each task, the number of runs of either.
    """
    z = float(ndtri((1 + LEVEL) / 2))

    def inside(p: float) -> bool:
        return (value - p) ** 2 <= z**2 * variance(p, sizes)

    return _end(value, 0.0, inside), _end(value, 1.0, inside)


def variance(p: float, sizes: Sequence[tuple[int, int]]) -> float:
    """That of the mean over tasks of estimates of one probability p."""
    total = 0.0
    for m, n in sizes:
        more = (m + n) / 2 - 1
        total += (1 + more * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
    return p * (1 - p) * total / len(sizes) ** 2


def _end(inner: float, outer: float, inside: Callable[[float], bool]) -> float:
    """Where `inside` ends between a point at which it holds and another beyond."""
    for _ in range(HALVINGS):
        middle = (inner + outer) / 2
        if inside(middle):
            inner = middle
        else:
            outer = middle
    return inner

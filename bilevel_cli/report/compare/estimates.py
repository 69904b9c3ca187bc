"""The mean of a configuration over its seeds, with its interval."""

from collections.abc import Sequence

import numpy as np

from bilevel_cli.report.compare.comparison import UNBOUNDED, Estimate
from bilevel_cli.report.compare.statistics import bounded, location


def student(
    values: Sequence[float],
    iqm: bool = False,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """The mean and its 95 % interval: Student's t, put farther away from bounds of the scores.

    Args:
        values: A value for each run.
        iqm: Whether it is the interquartile mean.
        bounds: The least and the most that scores can be.
    """
    n = len(values)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    found = location(np.asarray(values, dtype=np.float64), iqm)
    if n == 1:
        return Estimate(float(found.value), np.nan, np.nan, 1)
    low, high = bounded(found, *bounds)
    return Estimate(float(found.value), float(low), float(high), n)

"""Means over seeds and their differences, with intervals, and the family of comparisons.

All functions take samples along the last axis of arrays, so that one call serves a report and a
simulation of a million of them alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit  # scipy.stats would take half a second to import

from bilevel_cli.report.compare.scales import PLAIN, Numbers, Scale

LEVEL = 0.95  # of an interval, and of all statements of a family together
ERROR = 0.05  # what is left of it
FEWEST_PAIRS = 3  # common seeds, below which methods that have other seeds too are not paired


class Measured(NamedTuple):
    """Quantities with what their intervals by Student's t are made of.

    Attributes:
        value: The quantities, an array of any shape.
        error: Their standard errors, of the same shape; NaN of a sample of one.
        freedom: Degrees of freedom of the standard errors, of the same shape.
    """

    value: Numbers
    error: Numbers
    freedom: Numbers

    def interval(self, level: ArrayLike = LEVEL) -> tuple[Numbers, Numbers]:
        """Both ends of the interval; infinite where the error is not finite."""
        half = stdtrit(self.freedom, (1 + np.asarray(level)) / 2) * self.error
        half = np.where(np.isfinite(half), half, np.inf)
        return self.value - half, self.value + half

    def p(self) -> Numbers:
        """The two-sided p value of 0; 1 where it cannot be told, 0 where nothing varies."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 2 * stdtr(self.freedom, -np.abs(self.value / self.error))
        return np.where(np.isfinite(found), found, 1.0)


def location(values: Numbers, iqm: bool = False) -> Measured:
    """The mean of each sample, or its interquartile mean.

    The standard error of the interquartile mean is Yuen's (1974). It is made of the deviation of
    the sample in which each value that is left out is replaced by the nearest one that is kept. Of
    fewer than four values none is left out, and it is the error of the mean.

    Args:
        values: Samples along the last axis.
        iqm: Whether the lowest and the highest quarter, rounded down, are left out.
    """
    n, cut = values.shape[-1], _cut(values.shape[-1], iqm)
    return Measured(_center(values, cut), *_error(_winsorized(values, cut), n - 2 * cut))


def bounded(found: Measured, low: float, high: float) -> tuple[Numbers, Numbers]:
    """Both ends of the interval of a location of scores that are never below `low` or above `high`.

    Close to a bound, scores are skewed away from it, and a sample that happens to lack its far ones
    has too short an interval by Student's t. Its end away from a bound is put farther by 2 r^2 / d,
    with r half of its width and d the distance of the location from the bound. This has the form
    of Johnson's (1978) correction of t for skewness, which is about 2 or 3 deviations / d here. The
    factor, and that the near end stays, were chosen by simulation: docs/report.md has the coverage.
    """
    least, most = found.interval()
    half = (most - least) / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        up = np.nan_to_num(2 * half**2 / (found.value - low), nan=0.0, posinf=np.inf)
        down = np.nan_to_num(2 * half**2 / (high - found.value), nan=0.0, posinf=np.inf)
    return np.maximum(least - down, low), np.minimum(most + up, high)


def paired(one: Numbers, other: Numbers, iqm: bool = False) -> Measured:
    """The location of `one` minus that of `other`, of samples that share their seeds.

    The paired t test; of interquartile means Yuen's (Wilcox, 2012, section 5.9.5).

    Args:
        one: Samples along the last axis.
        other: Of the same shape, the values of the same seeds.
        iqm: As in `location`.
    """
    n, cut = one.shape[-1], _cut(one.shape[-1], iqm)
    value = _minus(_center(one, cut), _center(other, cut))
    apart = _winsorized(one, cut) - _winsorized(other, cut)
    return Measured(value, *_error(apart, n - 2 * cut))


def unpaired(one: Numbers, other: Numbers, iqm: bool = False) -> Measured:
    """The location of `one` minus that of `other`, of samples that have nothing in common.

    Welch's t test; of interquartile means Yuen's (1974).

    Args:
        one: Samples along the last axis.
        other: Likewise, of any length.
        iqm: As in `location`.
    """
    a, b = location(one, iqm), location(other, iqm)
    return Measured(_minus(a.value, b.value), *together([a.error, b.error], [a.freedom, b.freedom]))


def together(errors: Sequence[Numbers], freedoms: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """The standard error of a sum of independent quantities, and its degrees of freedom.

    These are Welch's and Satterthwaite's; where nothing varies, the fewest of any quantity.
    """
    squares, each = np.square(errors), np.asarray(freedoms)
    variance = squares.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / (squares**2 / each).sum(axis=0)
    return np.sqrt(variance), np.where(np.isfinite(freedom), freedom, each.min(axis=0))


class Difference(NamedTuple):
    """How far one configuration is from another.

    Attributes:
        measured: The location of the one minus that of the other, on a scale on which scores are
            not skewed. The p value is that of this.
        scale: That scale.
        plain: The same of the scores as they are.
        locations: Those of the one and of the other, as scores are.
        pairs: How many common seeds it was taken from; 0 where seeds were not paired.
    """

    measured: Measured
    scale: Scale
    plain: Measured
    locations: tuple[float, float]
    pairs: int

    @property
    def value(self) -> float:
        """The difference of the scores as they are."""
        return float(self.plain.value)

    @property
    def p(self) -> float:
        """The two-sided p value that there is none."""
        return float(self.measured.p())

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends of the interval of the difference of the scores as they are.

        It is that of Student's t. Where scores are skewed by a bound, the end beyond the difference
        is farther, as in `bounded`. And the end before it is that of the scale, brought back to
        scores, where one of the two has 0 beyond it and the other has not: so the interval excludes
        0 where the p value is 1 - `level` or less and both scales order the methods alike.
        """
        low, high = (float(end) for end in self.plain.interval(level))
        if self.scale is PLAIN:
            return low, high
        sign = 1.0 if self.value >= 0 else -1.0
        before, beyond = sorted((sign * low, sign * high))
        of_scale = float((sign * self._brought_back(level)).min())
        if (before > 0) != (of_scale > 0):
            before = min(of_scale, sign * self.value)
        distance = sum(map(self.scale.distance, self.locations))
        beyond += 2 * ((high - low) / 2) ** 2 / distance
        low, high = sorted((sign * before, sign * beyond))
        return low, high

    def _brought_back(self, level: float) -> Numbers:
        """Both ends of the interval of the scale as differences of scores.

        The location nearer to a bound is kept and the other one moves, since it varies more.
        """
        one, other = self.locations
        ends = np.asarray(self.measured.interval(level))
        with np.errstate(over="ignore"):
            if self.scale.distance(other) <= self.scale.distance(one):
                return self.scale.back(self.scale.free(np.asarray(other)) + ends) - other
            return one - self.scale.back(self.scale.free(np.asarray(one)) - ends)


def difference(
    one: Mapping[Any, float],
    other: Mapping[Any, float],
    iqm: bool = False,
    scale: Scale = PLAIN,
) -> Difference | None:
    """The location of `one` minus that of `other`, from their values by seed.

    Runs of one seed had the same data and the same start, so common seeds are compared in pairs,
    and the others are left out then. They are not paired where that would leave out too many: a
    difference is paired where the seeds of one are all seeds of the other, or where at least half
    of the fewer seeds are common, three at least. Ten seeds each of which two are common are not.

    Args:
        one: Values by seed.
        other: Likewise.
        iqm: As in `location`.
        scale: On which they are compared.

    Returns:
        None where either has fewer than two values.
    """
    if (fewer := min(len(one), len(other))) < 2:
        return None
    common = [seed for seed in one if seed in other]
    pairs = len(common)
    if not (pairs == fewer or (pairs >= FEWEST_PAIRS and 2 * pairs >= fewer)):
        common, pairs = [], 0
    left, right = (
        np.array([values[seed] for seed in common or values], dtype=np.float64)
        for values in (one, other)
    )
    compared = paired if pairs else unpaired
    plain = measured = compared(left, right, iqm)
    if scale is not PLAIN:
        measured = compared(scale.free(left), scale.free(right), iqm)
    a, b = (float(_center(some, _cut(len(some), iqm))) for some in (left, right))
    return Difference(measured, scale, plain, (a, b), pairs)


def holm(p_values: Sequence[float], chosen: bool = False) -> list[float]:
    """The p value that each comparison of a family may have at most to be called different.

    Holm (1979): the smallest of m p values may be `ERROR` / m, the next one a m-1st part, and
    so on; at the first that is larger all stop, and share its limit. So no equal pair of the family
    is called different, with probability `LEVEL`, and the interval of a comparison at 1 minus its
    limit contains 0 where it is not called different, and only there.

    Args:
        p_values: Of m comparisons.
        chosen: Whether they are with the best of m + 1 configurations, which was chosen by the same
            values. Any two of the configurations might have been compared then, so that with j of
            them left, all j (j - 1) / 2 pairs share the error in place of the j - 1 that are seen.
    """
    limits = [0.0] * len(p_values)
    limit, stopped = 0.0, False
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if not stopped:
            limit = ERROR / _sharing(len(p_values) - step, chosen)
            stopped = p_values[place] > limit
        limits[place] = limit
    return limits


def least(seeds: int, comparisons: int) -> float:
    """The least difference to the best that is told at the first of Holm's steps.

    Args:
        seeds: In common.
        comparisons: With the best.

    Returns:
        In standard deviations of the difference over seeds.
    """
    limit = ERROR / _sharing(comparisons, chosen=True)
    return float(stdtrit(seeds - 1, 1 - limit / 2) / np.sqrt(seeds))


def _sharing(left: int, chosen: bool) -> float:
    """How many comparisons share the error where some are left."""
    return left * (left + 1) / 2 if chosen else left


def _cut(n: int, iqm: bool) -> int:
    """How many of n values are left out at either end."""
    return n // 4 if iqm else 0


def _center(values: Numbers, cut: int) -> Numbers:
    if cut:
        values = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return np.asarray(values.mean(axis=-1))


def _minus(one: Numbers, other: Numbers) -> Numbers:
    """The difference of two means; 0 where it is their rounding alone."""
    apart = one - other
    rounding = 8 * np.finfo(np.float64).eps * np.maximum(np.abs(one), np.abs(other))
    return np.where(np.abs(apart) <= rounding, 0.0, apart)


def _winsorized(values: Numbers, cut: int) -> Numbers:
    """The values, those that are left out replaced by the nearest that is kept."""
    if not cut:
        return values
    ordered = np.sort(values, axis=-1)
    low, high = ordered[..., cut, None], ordered[..., values.shape[-1] - cut - 1, None]
    return np.clip(values, low, high)


def _error(winsorized: Numbers, kept: int) -> tuple[Numbers, Numbers]:
    """The standard error of the mean of those that are kept, and its degrees of freedom."""
    n, shape = winsorized.shape[-1], winsorized.shape[:-1]
    freedom = np.full(shape, kept - 1.0)
    if kept < 2:
        return np.full(shape, np.nan), freedom
    variance = winsorized.var(axis=-1, ddof=1) * (n - 1) / (kept * (kept - 1))
    return np.sqrt(variance), freedom

"""The vertical range of a plot, in which the curves that are compared can be told apart.

rangeOf in page/assets/scale.js has the same rules and the same numbers, for what readers choose.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.show.curves import Band, Curve

EARLY = 0.1  # the part of a curve, from its beginning, that may leave the plot
WORTH = 2  # it does where the whole is more than this many times as high as what comes after
FAR = 20  # a curve leaves the plot where all are more than this many times as high without it
FEWEST = 3  # curves, of which at most half leave the plot
ROOM = 0.06  # of the height, above and below

Extent = tuple[float, float]  # the least and the largest number of a curve


class Scale(NamedTuple):
    """The vertical range of a plot.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        cut: Whether the beginnings of curves are out of view.
        far: The positions of the curves that are out of view as a whole.
    """

    low: float
    high: float
    cut: bool
    far: list[int]


def scale(
    curves: Sequence[Curve],
    bands: Sequence[Band | None] = (),
    behind: Sequence[Curve] = (),
) -> Scale | None:
    """The range in which curves can be told apart; None without a finite number.

    Where the fall or rise from a bad start would take more than half of the height, the first row
    of the curves, or their first tenth, may leave the range. So may a curve that is so far away
    that the others would be one line; the best never does. Bands widen the range on either side by
    half of its height at most, since the band of two runs is 25 times as wide as their difference;
    curves behind widen it by its height at most.

    Args:
        curves: The curves to compare, the best first.
        bands: The bands around them, None for a curve without; or no bands at all.
        behind: Curves that are drawn in grey behind them.
    """
    numbers = [number for number, one in enumerate(curves) if np.isfinite(one.y).any()]
    if not numbers:
        found = scale(behind) if len(behind) else None
        return found and found._replace(far=[])
    finite = [_finite(curves[number]) for number in numbers]
    late = [_late(one) for one in finite]
    all_of, late_of = _around(map(_extent, finite)), _around(map(_extent, late))
    # With two rows nothing is cut: the line between them would leave the plot.
    rows = max(len(one.x) for one in late)
    cut = rows > 1 and _height(all_of) > WORTH * _height(late_of) > 0
    extents = [_extent(one) for one in (late if cut else finite)]
    kept = _together(extents)
    low, high = _around(extents[place] for place in kept)
    height = high - low
    far = [numbers[place] for place in range(len(numbers)) if place not in kept]
    near = [one for number, one in enumerate(bands) if one is not None and number not in far]
    edges = np.concatenate([np.empty(0), *(_edges(one, cut) for one in near)])
    low = max(edges.min(initial=low), low - height / 2)
    high = min(edges.max(initial=high), high + height / 2)
    height = high - low
    others = [_extent(_late(one) if cut else one) for one in map(_finite, behind) if len(one.x)]
    if others:
        least, most = _around(others)
        low, high = min(low, max(least, low - height)), max(high, min(most, high + height))
    room = ROOM * (high - low) or ROOM * abs(high) or 0.5
    return Scale(float(low - room), float(high + room), cut, far)


def _together(extents: Sequence[Extent]) -> list[int]:
    """The positions of the extents that share a scale, the first among them."""
    kept = list(range(len(extents)))
    if len(extents) < FEWEST:
        return kept
    while True:
        most = _height(_around(extents[place] for place in kept))
        for some in _candidates(extents, kept):
            if most > FAR * _height(_around(extents[place] for place in some)) > 0:
                kept = some
                break
        else:
            return kept


def _candidates(extents: Sequence[Extent], kept: list[int]) -> list[list[int]]:
    """What may be kept, the most first: without the farthest below, or without those above."""
    found = []
    below = sorted(kept, key=lambda k: extents[k][0])
    above = sorted(kept, key=lambda k: -extents[k][1])
    for count in range(1, len(kept) - (len(extents) + 1) // 2 + 1):
        for order in (below, above):
            if 0 not in order[:count]:
                found.append(sorted(order[count:]))
    return found


def _finite(one: Curve) -> Curve:
    known = np.isfinite(one.y)
    return Curve(one.x[known], one.y[known])


def _late(one: Curve) -> Curve:
    """A curve without its beginning; whole where nothing else is left."""
    after = one.x >= one.x[0] + EARLY * (one.x[-1] - one.x[0])
    return Curve(one.x[after], one.y[after]) if after.any() else one


def _edges(one: Band, cut: bool) -> NDArray[np.float64]:
    parts = [_finite(Curve(one.x, end)) for end in (one.low, one.high)]
    some = [(_late(part) if cut else part).y for part in parts if len(part.x)]
    return np.concatenate([np.empty(0), *some])


def _extent(one: Curve) -> Extent:
    return float(one.y.min()), float(one.y.max())


def _around(extents: Iterable[Extent]) -> Extent:
    found = list(extents)
    return min(low for low, _ in found), max(high for _, high in found)


def _height(one: Extent) -> float:
    return one[1] - one[0]

"""Where to cut inner steps whose graphs the memory budget does not hold at once."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

AT_ONCE = 500_000  # plans that are compared at once: there are count * log(count) of them


@lru_cache
def plan(count: int, graph: int, state: int, budget: int) -> tuple[int, ...]:
    """Into segments of how many steps to cut `count` steps, and each of those segments again.

    A segment of the last level is held as a graph. Among the plans that fit, this is the one that
    runs the fewest steps again; where none fits, the one that needs least memory. With one level of
    stored states, all but the last S steps are run twice; with two levels, three times at most. At
    the first of two levels, segments are multiples of S, which serve as well as any number.

    Args:
        count: Number of steps.
        graph: Bytes of the graph of one step.
        state: Bytes of a state.
        budget: Bytes that may be held.
    """
    best: tuple[int, int, int] | None = None  # steps run again, and the plan
    least: tuple[int, int, int] | None = None  # bytes held, and the plan
    for outer, inner in _plans(count):
        stored = (count - 1) // outer + (outer - 1) // inner
        held = stored * state + inner * graph
        first = (count - 1) % outer + 1
        again = count - outer + (count - first) // outer * (outer - inner)
        again += np.maximum(first - inner, 0)
        if least is None or held.min() < least[0]:
            least = _taken(held, outer, inner)
        (fitting,) = (held <= min(budget, np.iinfo(np.int64).max)).nonzero()
        if len(fitting) and (best is None or again[fitting].min() < best[0]):
            best = _taken(again[fitting], outer[fitting], inner[fitting])
    found = best or least
    assert found is not None
    _, large, small = found
    return (small,) if large == small else (large, small)


def _plans(count: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Segments of both levels, some plans at a time: those of one level, of equal sizes, first."""
    sizes = np.arange(count, 0, -1)
    for start in range(0, count, AT_ONCE):
        some = sizes[start : start + AT_ONCE]
        yield some, some
    multiples = np.maximum((count - 1) // sizes - 1, 0)  # 2 S, 3 S, ... below `count`
    block = multiples.cumsum() // AT_ONCE
    for number in np.unique(block):
        chosen = block == number
        inner = np.repeat(sizes[chosen], multiples[chosen])
        if len(inner):
            begun = np.repeat(multiples[chosen].cumsum() - multiples[chosen], multiples[chosen])
            yield (np.arange(len(inner)) - begun + 2) * inner, inner


def _taken(values: Numbers, outer: Numbers, inner: Numbers) -> tuple[int, int, int]:
    """The smallest value, the first on ties, and the plan that has it."""
    place = values.argmin()
    return int(values[place]), int(outer[place]), int(inner[place])

"""Where to cut inner steps whose graphs the memory budget does not hold at once."""

import math
from functools import lru_cache
from itertools import pairwise


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

    def held(sizes: tuple[int, ...]) -> int:
        states = sum(math.ceil(n / size) - 1 for n, size in pairwise((count, *sizes)))
        return states * state + sizes[-1] * graph

    def again(sizes: tuple[int, ...]) -> int:
        first, last = (count - 1) % sizes[0] + 1, sizes[-1]
        segments = (count - first) // sizes[0]
        return count - sizes[0] + segments * (sizes[0] - last) + max(first - last, 0)

    plans: list[tuple[int, ...]] = [(s,) for s in range(count, 0, -1)]
    plans += [(n, s) for s in range(count, 0, -1) for n in range(2 * s, count, s)]
    fitting = [plan for plan in plans if held(plan) <= budget]
    return min(fitting, key=again) if fitting else min(plans, key=held)

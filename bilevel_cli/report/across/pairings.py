"""Each configuration against each other: how probably it is better, and on how many tasks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from bilevel_cli.report.across import improvement
from bilevel_cli.report.compare import statistics
from bilevel_cli.report.compare.scales import PLAIN, Scale

Scores = Mapping[str, Mapping[str, float]]
"""For each task the score of each seed: more is better, and -inf is that of a run that failed."""


class Kind(NamedTuple):
    """How the scores of a task are compared.

    Attributes:
        sign: -1 where less of the task's own score is better: scores here have the other sign.
        scale: On which its own scores are compared.
    """

    sign: int = 1
    scale: Scale = PLAIN


@dataclass(frozen=True)
class Pair:
    """How one configuration did against another.

    Attributes:
        probability: That a run of the first beats a run of the second, over the tasks of both; NaN
            where they have none in common.
        low: The lower end of its 95 % interval.
        high: The upper end.
        won: On how many tasks the first is better, and that is no chance.
        lost: On how many the second is.
        level: On how many other tasks both were run.
    """

    probability: float
    low: float
    high: float
    won: int
    level: int
    lost: int

    def reversed(self) -> "Pair":
        """The same of the second against the first."""
        ends = 1 - self.high, 1 - self.low
        return Pair(1 - self.probability, *ends, self.lost, self.level, self.won)

    @property
    def better(self) -> bool:
        """Whether the first is better, as far as the probability tells."""
        return self.low > 0.5


def pairs(
    scores: Mapping[str, Scores], kinds: Mapping[str, Kind], iqm: bool = False
) -> dict[tuple[str, str], Pair]:
    """All pairs of configurations, in both orders.

    Args:
        scores: For each configuration its scores on the tasks that it has.
        kinds: How the scores of each task are compared.
        iqm: Whether interquartile means are compared on each task.
    """
    won = {
        task: _outcomes({n: own[task] for n, own in scores.items() if own.get(task)}, kind, iqm)
        for task, kind in kinds.items()
    }
    numbers = {
        name: {task: np.array(list(some.values())) for task, some in own.items() if some}
        for name, own in scores.items()
    }
    found: dict[tuple[str, str], Pair] = {}
    for one, other in combinations(scores, 2):
        common = [task for task in kinds if task in numbers[one] and task in numbers[other]]
        x, y = ([numbers[name][task] for task in common] for name in (one, other))
        if common:
            value = improvement.probability(x, y)
            sizes = [(len(a), len(b)) for a, b in zip(x, y, strict=True)]
            low, high = improvement.interval(value, sizes)
        else:
            value = low = high = math.nan
        said = [won[task][one, other] for task in common]
        pair = Pair(value, low, high, said.count(1), said.count(0), said.count(-1))
        found[one, other], found[other, one] = pair, pair.reversed()
    return found


def _outcomes(
    scores: Mapping[str, Mapping[str, float]], kind: Kind, iqm: bool
) -> dict[tuple[str, str], int]:
    """For each pair on one task: 1 where the first is better, -1 where it is worse, or 0.

    Their means are compared as in the table of the task, at 95 % for all pairs of the task together
    (Holm). One all of whose runs failed is worse than any other; one some of whose runs failed is
    never better, whatever the others say, than one of whose runs a smaller part did.
    """
    alive = {
        name: {seed: kind.sign * value for seed, value in own.items() if value > -math.inf}
        for name, own in scores.items()
    }
    found: dict[tuple[str, str], int] = {}
    doubtful: dict[tuple[str, str], statistics.Difference] = {}
    for one, other in combinations(scores, 2):
        if not (alive[one] and alive[other]):
            found[one, other] = bool(alive[one]) - bool(alive[other])
            continue
        found[one, other] = 0
        difference = statistics.difference(alive[one], alive[other], iqm, kind.scale)
        if difference is not None:
            doubtful[one, other] = difference
    limits = statistics.holm([one.p for one in doubtful.values()])
    for ((one, other), difference), limit in zip(doubtful.items(), limits, strict=True):
        ahead = kind.sign * int(np.sign(difference.value)) if difference.p <= limit else 0
        lost_more = failed(scores[one]) - failed(scores[other])
        found[one, other] = 0 if ahead * lost_more > 0 else ahead
    return found


def failed(scores: Mapping[str, float]) -> float:
    """The part of the runs of a configuration on one task that failed."""
    return sum(value == -math.inf for value in scores.values()) / len(scores)

"""Where each configuration stands over several tasks."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.across import friedman, normalised, pairings
from bilevel_cli.report.across.friedman import Verdict
from bilevel_cli.report.across.normalised import Scale
from bilevel_cli.report.across.pairings import Kind, Pair
from bilevel_cli.report.compare.comparison import Estimate, Report, Row
from bilevel_cli.report.compare.configurations import configurations, key_of
from bilevel_cli.report.compare.measure import at_start
from bilevel_cli.report.compare.standings import by_seed
from bilevel_cli.vocabulary import COMPLETED, WITHOUT_A_NUMBER

Numbers = NDArray[np.float64]

MOST = 60  # configurations that are compared in pairs: the work grows with their square
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True, eq=False)
class Competitor:
    """A configuration on all of its tasks.

    Attributes:
        label: Its name, which no option of a task is part of.
        options: The options that tell it from the others, with their values.
        rows: Its row in the comparison of each task that it has.
        scores: For each of these, a number by seed: the score, with the opposite sign where less is
            better, and minus infinity for a run that failed.
        numbers: For each of these, its scores on the scale of the task, where a run that failed
            has the worst.
        ranks: Its rank on each task, 1 for the best, where it has all.
        mean: The mean of `numbers`, where it has all tasks.
    """

    label: str
    options: dict[str, Any]
    rows: dict[str, Row]
    scores: dict[str, dict[str, float]]
    numbers: dict[str, Numbers] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)
    mean: Estimate = NOTHING

    @property
    def rank(self) -> float:
        """Its mean rank; NaN where it lacks a task."""
        return float(np.mean(list(self.ranks.values()))) if self.ranks else math.nan

    @property
    def failed(self) -> int:
        """How many of its runs count as the worst."""
        return sum(value == -math.inf for some in self.scores.values() for value in some.values())

    @property
    def runs(self) -> int:
        """How many of its runs count."""
        return sum(map(len, self.scores.values()))


@dataclass(frozen=True, eq=False)
class Overall:
    """What may be said over all tasks.

    Attributes:
        tasks: Their names, without those in which no run has a number.
        competitors: The best mean rank first; those that lack a task last.
        scales: How the scores of each task are normalised.
        verdict: On the ranks of those that have all tasks, in their order; None for fewer than two.
        pairs: For each pair of labels of the first `MOST` competitors, in both orders, how the
            first did against the second.
    """

    tasks: list[str]
    competitors: list[Competitor]
    scales: dict[str, Scale]
    verdict: Verdict | None
    pairs: dict[tuple[str, str], Pair]

    @property
    def ranked(self) -> list[Competitor]:
        """Those that have all tasks."""
        return [one for one in self.competitors if not math.isnan(one.rank)]

    @property
    def paired(self) -> list[Competitor]:
        """Those that are compared in pairs."""
        return self.competitors[:MOST]

    def lacks(self, one: Competitor) -> list[str]:
        """The tasks that a competitor has no run of."""
        return [task for task in self.tasks if not one.scores.get(task)]

    def scaled(self, one: Competitor) -> list[Numbers]:
        """The normalised scores of a competitor on each task, with -inf for runs that failed."""
        return [
            self.scales[task].of(np.array(list(one.scores[task].values())))
            for task in self.tasks
            if one.scores.get(task)
        ]

    def level(self, one: Competitor) -> bool:
        """Whether a mean rank is nearer to the best than the critical difference."""
        best = self.ranked[0].rank
        return self.verdict is None or one.rank - best < self.verdict.critical - 1e-9


@lru_cache(maxsize=1)  # of one report: several outputs show it
def overall(report: Report) -> Overall | None:
    """What is said over the parts of a report; None where fewer than two tasks have a number."""
    tasks = [task for task, part in report.parts.items() if any(r.values for r in part.rows)]
    if len(tasks) < 2:
        return None
    parts = {task: report.parts[task] for task in tasks}
    scales = {task: _scale(part) for task, part in parts.items()}
    found = _numbered(_competitors(parts), scales)
    whole = [one for one in found if all(one.scores.get(task) for task in tasks)]
    verdict = None
    if whole:
        whole, verdict = _ranked(whole, report, tasks)
    kept = {one.label for one in whole}
    every = [*whole, *(one for one in found if one.label not in kept)]
    kinds = {task: Kind(_sign(part), part.scale) for task, part in parts.items()}
    pairs = pairings.pairs({one.label: one.scores for one in every[:MOST]}, kinds, report.iqm)
    return Overall(tasks, every, scales, verdict, pairs)


def _sign(part: Report) -> int:
    """What makes more of a score better."""
    return 1 if part.higher else -1


def _numbered(competitors: list[Competitor], scales: dict[str, Scale]) -> list[Competitor]:
    """The competitors with their scores on the scale of each task."""
    numbers: list[dict[str, Numbers]] = [{} for _ in competitors]
    for task, scale in scales.items():
        there = [place for place, one in enumerate(competitors) if one.scores.get(task)]
        scores = [np.array(list(competitors[place].scores[task].values())) for place in there]
        for place, some in zip(there, normalised.finite(map(scale.of, scores)), strict=True):
            numbers[place][task] = some
    return [replace(one, numbers=own) for one, own in zip(competitors, numbers, strict=True)]


def _ranked(
    whole: list[Competitor], report: Report, tasks: list[str]
) -> tuple[list[Competitor], Verdict | None]:
    """Those that have all tasks, the best mean rank first, and what their ranks show."""
    take = normalised.interquartile if report.iqm else normalised.mean
    ranks = friedman.ranked([[_place(one, task, report) for one in whole] for task in tasks])
    order = [int(place) for place in np.argsort(ranks.mean(0), kind="stable")]
    found = [
        replace(
            whole[place],
            ranks=dict(zip(tasks, ranks[:, place].tolist(), strict=True)),
            mean=take([whole[place].numbers[task] for task in tasks]),
        )
        for place in order
    ]
    return found, friedman.verdict(ranks[:, order]) if len(whole) > 1 else None


def _competitors(parts: dict[str, Report]) -> list[Competitor]:
    """The configurations that differ in something else than their task."""
    names = _telling(list(parts.values()))
    groups = configurations(
        [run for part in parts.values() for g in part.configurations for run in g.runs], names
    )
    place = {run: number for number, group in enumerate(groups) for run in group.runs}
    rows: list[dict[str, Row]] = [{} for _ in groups]
    for task, part in parts.items():
        for row in part.rows:
            rows[place[row.configuration.runs[0]]][task] = row
    return [
        Competitor(
            group.label,
            group.differing,
            own,
            {task: _scores(row, _sign(parts[task])) for task, row in own.items()},
        )
        for group, own in zip(groups, rows, strict=True)
    ]


def _telling(parts: list[Report]) -> list[str]:
    """The options that tell configurations apart, whatever the task.

    Those that differ within every task, if they tell all apart. Others, such as a step size that is
    swept in one task alone, may have another value in each task. Or else those that differ in any.
    """
    names = [
        dict.fromkeys(n for one in part.configurations for n in one.differing) for part in parts
    ]
    common = [name for name in names[0] if all(name in others for others in names)]
    enough = all(
        len({key_of([one.differing.get(name) for name in common]) for one in part.configurations})
        == len(part.configurations)
        for part in parts
    )
    return common if enough else list(dict.fromkeys(name for some in names for name in some))


def _scores(row: Row, sign: int) -> dict[str, float]:
    """A number for each seed; of several runs with one seed, their mean.

    A run that is going, or was stopped, and has no number yet, says nothing.
    """
    failed = (
        run.name
        for run in row.configuration.runs
        if run.status in WITHOUT_A_NUMBER or run.status == COMPLETED
    )
    values = {name: sign * value for name, value in row.values.items()}
    return by_seed(row.configuration, {**dict.fromkeys(failed, -math.inf), **values})


def _place(one: Competitor, task: str, report: Report) -> tuple[float, float]:
    """What a task ranks by: the part of the runs that failed, then the mean of the others."""
    failed = pairings.failed(one.scores[task])
    if failed == 1:
        return failed, 0.0
    value = one.rows[task].estimate.value
    return failed, -value if report.parts[task].higher else value


def _scale(part: Report) -> Scale:
    sign = _sign(part)
    starts = [at_start(run, part.metric) for one in part.configurations for run in one.runs]
    known = [sign * start for start in starts if math.isfinite(start)]
    means = [sign * row.estimate.value for row in part.rows if row.values]
    return normalised.scale(float(np.mean(known)) if known else math.nan, means)

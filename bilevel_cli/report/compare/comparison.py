"""A comparison of runs: what all of its outputs show."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.compare.scales import PLAIN, Scale
from bilevel_cli.report.costs import columns, cost_of
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import WITHOUT_A_NUMBER

# How a configuration stands to the others; `show/cells.py` has the words for it.
BEST, LEVEL, WORSE, BROKE, UNCOMPARED = "best", "level", "worse", "broke", "uncompared"
ALONE = "alone"  # why the only configuration is not compared

# Why a run that completed is not in the mean: words that are counted beside statuses.
NO_NUMBER, TOO_LARGE = "without a number", "too large"
LOST = (*WITHOUT_A_NUMBER, NO_NUMBER, TOO_LARGE)  # by what such a run did itself

UNBOUNDED = (-math.inf, math.inf)  # the least and the most of a metric without bounds
END = "end"  # in place of a column of costs: each run is compared at its end, whatever it cost


@dataclass(frozen=True)
class Budget:
    """What each run may spend before it is compared.

    Attributes:
        column: That of a cost; `END` where runs may spend what they like.
        limit: The most of that cost; None where it is not known yet, and with `END`.
    """

    column: str
    limit: float | None

    @property
    def peak(self) -> bool:
        """Whether runs have to fit in it, as in memory, instead of reaching it."""
        return self.column != END and cost_of(self.column).peak


@dataclass(frozen=True)
class Estimate:
    """A mean or interquartile mean over runs, or a difference of two, with its interval.

    Attributes:
        value: The mean; NaN without runs.
        low: The lower end of the interval; NaN with fewer than two runs.
        high: The upper end, likewise.
        n: Number of runs.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Behind:
    """By how much a configuration is worse than the best.

    Attributes:
        by: The difference of their means, positive where it is worse, with its interval at the
            level of its step in Holm's correction; `n` is the number of seeds in common where they
            were paired, and 0 where they were not.
        p: The two-sided p value, not corrected.
        limit: The p value that Holm's correction asks for: it is called worse at that or less.
    """

    by: Estimate
    p: float
    limit: float


@dataclass(frozen=True)
class Standing:
    """How a configuration stands to the others.

    Attributes:
        kind: `BEST`; `LEVEL` with the best, or `WORSE`; `BROKE` where some of its runs have no
            number by their own doing, so that its mean is one of survivors; or `UNCOMPARED`.
        why: Of `BROKE` and `UNCOMPARED`, such as "3 of 6 diverged" and "1 seed".
        behind: Of `LEVEL` and `WORSE`.
    """

    kind: str
    why: str = ""
    behind: Behind | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """A configuration at the budget.

    Attributes:
        configuration: The configuration.
        values: The metric at the budget, by the name of the run; of runs that have a number there.
        estimate: The mean of these values.
        standing: How it stands to the others.
        counts: How many runs did not complete, by status, and how many completed but have no
            number at the budget: {"diverged": 2, "without a number": 1}. A run that was stopped,
            or is still going, is counted here even where it reached the budget and is in the mean.
        spent: What each run in the mean had spent where it is compared, by the name of the run: an
            amount for each column of costs.
    """

    configuration: Configuration
    values: dict[str, float]
    estimate: Estimate
    standing: Standing
    counts: dict[str, int]
    spent: dict[str, dict[str, float]]

    @cached_property
    def costs(self) -> dict[str, float]:
        """What the runs in the mean had spent: a mean for each column of costs; empty without."""
        runs = self.spent.values()
        return {name: float(np.mean([one[name] for one in runs])) for name in columns() if runs}

    @property
    def doubtful(self) -> int:
        """How many runs doubt their numbers, those that are not in the mean included."""
        return sum(bool(run.doubts) for run in self.configuration.runs)

    @property
    def lost(self) -> dict[str, int]:
        """How many runs have no number by their own doing, by what they did."""
        return {status: count for status, count in self.counts.items() if status in LOST}


@dataclass(frozen=True, eq=False)
class Report:
    """A comparison.

    Attributes:
        runs: All runs that were read, also those that were run again later.
        configurations: Ordered by the options in which they differ.
        rows: One for each configuration, the best first, those without a number last.
        metric: The column of eval.csv or train.csv that is compared; "" where no run has any.
        higher: Whether more of the metric is better.
        budget: What each run may spend before it is compared.
        within: The least and the most that the metric can be, as far as its values tell.
        scale: What scores are compared on.
        statements: What a reader must know, a line each.
        warnings: What is unfair about the comparison, and which files are damaged; a line each.
        parts: Where the runs have several tasks, the comparison of each task, by its name. The rows
            of this report are then theirs, with the marks that they have there. Its metric is that
            of most tasks, and its budget has a limit only where all tasks have the same.
        iqm: Whether interquartile means were asked for.
        target: The score of which is asked what it took to reach it; None where it is not asked.
        at_target: What each run that reached it had spent then, by the name of the run.
    """

    runs: list[Run]
    configurations: list[Configuration]
    rows: list[Row]
    metric: str
    higher: bool
    budget: Budget
    within: tuple[float, float] = UNBOUNDED
    scale: Scale = PLAIN
    statements: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parts: "dict[str, Report]" = field(default_factory=dict)
    iqm: bool = False
    target: float | None = None
    at_target: dict[str, dict[str, float]] = field(default_factory=dict)

    def part_of(self, configuration: Configuration) -> "Report":
        """The comparison of the task of a configuration; this one where there is one task."""
        run = configuration.runs[0]
        return next((part for part in self.parts.values() if run in part.runs), self)

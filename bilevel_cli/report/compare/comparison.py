"""A comparison of runs: what all of its outputs show."""

from dataclasses import dataclass, field

from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.costs import cost_of
from bilevel_cli.report.read.runs import Run

BEST, TIE, TOO_FEW = "best", "tie", "tie (too few seeds)"  # the marks of rows

# Why a run that completed is not in the mean: words that are counted beside statuses.
NO_NUMBER, TOO_LARGE = "without a number", "too large"

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
    """A mean or interquartile mean over runs, with its 95 % interval.

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


@dataclass(frozen=True, eq=False)
class Row:
    """A configuration at the budget.

    Attributes:
        configuration: The configuration.
        values: The metric at the budget, by the name of the run; of runs that have a number there.
        estimate: The mean of these values.
        mark: `BEST`, `TIE`, `TOO_FEW` or "".
        counts: How many runs did not complete, by status, and how many completed but have no
            number at the budget: {"diverged": 2, "without a number": 1}. A run that was stopped,
            or is still going, is counted here even where it reached the budget and is in the mean.
        costs: What the runs in the mean had spent where they are compared: a mean for each column
            of costs.
    """

    configuration: Configuration
    values: dict[str, float]
    estimate: Estimate
    mark: str
    counts: dict[str, int]
    costs: dict[str, float]

    @property
    def doubtful(self) -> int:
        """How many runs doubt their numbers, those that are not in the mean included."""
        return sum(bool(run.doubts) for run in self.configuration.runs)


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
        statements: What a reader must know, a line each.
        warnings: What is unfair about the comparison, and which files are damaged; a line each.
    """

    runs: list[Run]
    configurations: list[Configuration]
    rows: list[Row]
    metric: str
    higher: bool
    budget: Budget
    statements: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

"""A comparison of runs: what all of its outputs show."""

from dataclasses import dataclass, field

from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.read.runs import Run

BEST, TIE, TOO_FEW = "best", "tie", "tie (too few seeds)"  # the marks of rows


@dataclass(frozen=True)
class Budget:
    """What all runs may spend before they are compared.

    Attributes:
        column: "step", "seconds", "inner_grads" or "peak_memory_mb"; "end" for no budget.
        limit: How much of it; None for no budget.
    """

    column: str
    limit: float | None


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, or an interquartile one, and where it may lie.

    Attributes:
        value: NaN without runs.
        low: Of the 95 % interval; NaN with fewer than two runs.
        high: Likewise.
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
        configuration: Whose runs they are.
        values: The metric of each run that has one there, by the name of the run.
        estimate: Over these.
        mark: "best", "tie", "tie (too few seeds)" or "".
        counts: Runs by status, completed ones only where they have no number at the budget:
            {"diverged": 2, "without a number": 1}. A run that was stopped, or goes on, is in the
            mean as well once it reached the budget.
        costs: Means over the runs in the mean, where they are compared: step, seconds,
            inner_grads, hvps, peak_memory_mb.
    """

    configuration: Configuration
    values: dict[str, float]
    estimate: Estimate
    mark: str
    counts: dict[str, int]
    costs: dict[str, float]

    @property
    def doubtful(self) -> int:
        """Runs that say their numbers may not be what they seem, in the mean or not."""
        return sum(bool(run.doubts) for run in self.configuration.runs)


@dataclass(frozen=True, eq=False)
class Report:
    """A comparison.

    Attributes:
        runs: All of them, repeated ones too.
        configurations: In the order of what differs.
        rows: One for each configuration, the best first, those without a number last.
        metric: What is compared, a column of eval.csv or train.csv; "" where no run has any.
        higher: Whether more of it is better.
        budget: Where it is compared.
        statements: What a reader must know, a line each.
        warnings: What makes the comparison unfair, or was damaged, a line each.
    """

    runs: list[Run]
    configurations: list[Configuration]
    rows: list[Row]
    metric: str
    higher: bool
    budget: Budget
    statements: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

"""What is asked of a comparison."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilevel_cli.errors import UsageError, hint
from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare.comparison import END, Budget
from bilevel_cli.report.costs import SECONDS, STEP, budgets, columns
from bilevel_cli.report.read.runs import Run


@dataclass(frozen=True)
class Question:
    """What is to be compared, and at what budget.

    Args:
        metric: A column of eval.csv or train.csv; None for the first score.
        at: What each run may spend: a name of `costs.budgets`, alone or with `=LIMIT`, or "end".
        validation: A column that selects a row of each run within the budget; None for the last.
        iqm: Whether interquartile means are compared.
        group_by: Options that alone distinguish configurations; None for all.
        higher: Whether more of the metric is better; None to ask the runs.

    Raises:
        UsageError: `at` is no budget.
    """

    metric: str | None = None
    at: str = "steps"
    validation: str | None = None
    iqm: bool = False
    group_by: Sequence[str] | None = None
    higher: bool | None = None

    def __post_init__(self) -> None:
        _ = self.budget  # refused here, before hundreds of runs are read

    @property
    def budget(self) -> Budget:
        """What each run may spend, without a limit where `at` has none."""
        name, equals, number = self.at.partition("=")
        known = {**budgets(), END: END}
        if name not in known:
            names = ", ".join(known)
            raise UsageError(f"--at needs one of {names}, got {name!r}{hint(name, known)}")
        if not equals:
            return Budget(known[name], None)
        if name == END:
            raise UsageError(f"--at end has no limit, got {self.at}. Leave out what follows end.")
        try:
            limit = float(number)
        except ValueError:
            limit = np.nan
        if not 0 <= limit < np.inf:
            raise UsageError(
                f"--at needs a number after {name}=, at least 0, got {number!r}. "
                "Such as --at seconds=60."
            )
        return Budget(known[name], limit)

    def metric_of(self, runs: Sequence[Run]) -> str:
        """The column that is compared; "" where none is asked for and no run has a score.

        Raises:
            UsageError: The runs have no such column, or the question is biased.
        """
        metric = _first_score(runs) if self.metric is None else self.metric
        if self.metric is not None:
            _check_known("--metric", metric, runs)
        name = self.validation
        if name is not None:
            if name == metric or "test" in name.split("_"):
                raise UsageError(
                    f"--select best needs a validation column, got --validation {name}: the best "
                    "of a run's test scores is better than the run, the more so the more often it "
                    "was evaluated. Use --validation outer_loss, say, or --select final."
                )
            _check_known("--validation", name, runs)
        return metric


def _first_score(runs: Sequence[Run]) -> str:
    costs = columns()
    firsts = (next((name for name in run.evals if name not in costs), "") for run in runs)
    counts = Counter(str(first) for first in firsts if first)
    return counts.most_common(1)[0][0] if counts else ""


def _check_known(option: str, name: str, runs: Sequence[Run]) -> None:
    known = dict.fromkeys(str(column) for run in runs for column in (*run.evals, *run.train))
    if known and name not in known:  # runs without a row may have the column later
        others = ", ".join(column for column in known if column not in (STEP, SECONDS))
        raise UsageError(
            f"{option} needs a column of the runs, got {name}{hint(name, known)} "
            f"They have {plain(others, 200)}."
        )

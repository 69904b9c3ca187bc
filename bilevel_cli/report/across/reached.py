"""What it took to reach a target: seconds, gradients and steps until a score was as good."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bilevel_cli.errors import UsageError, hint
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.compare.measure import course
from bilevel_cli.report.costs import COSTS, STEP
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import COMPLETED, MISSING, WITHOUT_A_NUMBER

SPENT = tuple(
    cost.column for cost in COSTS if not cost.peak
)  # what grows until a target is reached


@dataclass(frozen=True)
class Target:
    """A score to reach.

    Attributes:
        every: That of all tasks that have none of their own; None without one.
        tasks: Those of single tasks, by their names.
    """

    every: float | None
    tasks: dict[str, float]

    def of(self, task: str | None) -> float | None:
        """That of a task; None for the only one."""
        return self.every if task is None else self.tasks.get(task, self.every)


@dataclass(frozen=True, eq=False)
class Reached:
    """What a configuration needed for a target.

    Attributes:
        configuration: The configuration.
        runs: For each run that says whether it reached it, what it had spent then, by the column of
            the cost: infinite where it never did.
        going: How many runs have not reached it, and may still.
    """

    configuration: Configuration
    runs: dict[str, dict[str, float]]
    going: int

    @property
    def count(self) -> int:
        """How many runs reached it."""
        return sum(math.isfinite(spent[STEP]) for spent in self.runs.values())

    def median(self, cost: str) -> float:
        """What half of the runs needed; infinite where fewer reached it, NaN where unknown."""
        values = [spent[cost] for spent in self.runs.values()]
        with np.errstate(invalid="ignore"):
            return float(np.median(values)) if values else math.nan


def target_of(text: str) -> Target:
    """What `--target` says: a number, or TASK=NUMBER, or several with commas between them.

    Raises:
        UsageError: It says something else.
    """
    every, tasks = None, dict[str, float]()
    name: list[str] = []  # the parts of a name with commas in it, up to its number
    for part in text.split(","):
        before, equals, after = part.rpartition("=")
        number = _number(after)
        if equals and number is not None:
            tasks[",".join([*name, before]).strip()] = number
            name = []
        elif number is not None and not name:
            every = number
        else:
            name.append(part)
    if name or "" in tasks:
        raise UsageError(
            f"--target needs a score, or TASK=SCORE with commas between them, got {text!r}. "
            "Such as --target 0.9 or --target reweight=0.9,hpo=0.4."
        )
    return Target(every, tasks)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_tasks(target: Target, report: Report) -> None:
    """Refuses a target of a task that the runs do not have.

    Raises:
        UsageError: There is one.
    """
    for name in target.tasks:
        if name not in report.parts:
            known = ", ".join(report.parts)
            raise UsageError(
                f"--target needs tasks of the runs, got {name}{hint(name, report.parts)} "
                + (f"They are {known}." if known else "They have one task: give the number alone.")
            )


def aimed(report: Report, target: float | None) -> Report:
    """The comparison of one task, with what its runs had spent when they reached a target.

    Args:
        report: The comparison.
        target: The score; None where none is asked for.
    """
    if target is None:
        return report
    runs = (run for one in report.configurations for run in one.runs)
    found = {run.name: _first(run, report.metric, target, report.higher) for run in runs}
    spent = {name: one for name, one in found.items() if one is not None}
    return replace(report, target=target, at_target=spent)


def _first(run: Run, metric: str, target: float, higher: bool) -> dict[str, float] | None:
    """What a run had spent at its first score that is as good as a target, by the columns `SPENT`.

    Returns:
        None where no score is. A cost that the run does not know is NaN.
    """
    line = course(run, metric)
    if line is None:
        return None
    good = line.values >= target if higher else line.values <= target
    rows = np.flatnonzero(good)
    if not len(rows):
        return None
    return {cost: float(line.costs[cost][rows[0]]) for cost in SPENT}


def reached(report: Report) -> list[Reached]:
    """What each configuration of one task needed for its target, the cheapest first.

    A run counts from its first evaluation that is as good, however it went on, and whatever the
    budget. One that completed, or broke, without any never will. Order is by the cost at which runs
    are compared.

    Args:
        report: The comparison of one task, with a target.
    """
    found = [_of(one, report.at_target) for one in report.configurations]
    cost = report.budget.column if report.budget.column in SPENT else STEP

    def place(one: Reached) -> tuple[float, int]:
        median = one.median(cost)
        return (median if median == median else math.inf, -one.count)

    return sorted(found, key=place)


def _of(configuration: Configuration, at_target: Mapping[str, dict[str, float]]) -> Reached:
    runs: dict[str, dict[str, float]] = {}
    going = 0
    for run in configuration.runs:
        if run.name in at_target:
            runs[run.name] = at_target[run.name]
        elif run.status in (COMPLETED, MISSING, *WITHOUT_A_NUMBER):
            runs[run.name] = dict.fromkeys(SPENT, math.inf)
        else:
            going += 1
    return Reached(configuration, runs, going)


def shown(found: Sequence[Reached]) -> list[str]:
    """The columns of the costs that any run knows where it reached the target."""
    spent = [costs for one in found for costs in one.runs.values()]
    return [cost for cost in SPENT if any(math.isfinite(costs[cost]) for costs in spent)]

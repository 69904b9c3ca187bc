"""What standings over several tasks say, in sentences."""

import math
from collections.abc import Sequence

from bilevel_cli.report.across.overall import Competitor, Overall, overall
from bilevel_cli.report.compare.comparison import BEST, LEVEL, Report
from bilevel_cli.report.show import headline as of_one_task
from bilevel_cli.report.show.headline import listed


def headline(report: Report, sign: str = "+-") -> str:
    """What a report says first; of several tasks which configuration is best over all.

    Args:
        report: The comparison.
        sign: Between a mean and half of its interval.
    """
    if not report.parts:
        return of_one_task.headline(report, sign)
    found = overall(report)
    if found is None:
        return "Fewer than two tasks have a number to compare."
    ranked = found.ranked
    over = f"over {len(found.tasks)} tasks"
    if not ranked:
        return f"No configuration has runs of all {len(found.tasks)} tasks."
    first = ranked[0]
    if found.verdict is None:
        return f"Only {first.label} has runs of all {len(found.tasks)} tasks."
    ahead = sum(rank == 1 for rank in first.ranks.values())
    measured = f"mean rank {first.rank:.2f}, first on {ahead} of {len(found.tasks)}"
    level = [one.label for one in ranked[1:] if found.level(one)]
    if not level:
        second = ranked[1]
        after = f"next is {second.label}, {second.rank:.2f}"
        return f"{first.label} is best {over}: {measured}; {after}."
    return f"{first.label} leads {over}: {measured}. {_level(found, level)}"


def _level(found: Overall, labels: Sequence[str]) -> str:
    assert found.verdict is not None
    if not math.isfinite(found.verdict.critical):
        return f"{len(found.tasks)} tasks are too few to tell mean ranks apart."
    return (
        f"By ranks alone, which must differ by {found.verdict.critical:.2f}, "
        f"{listed(labels)} {'is' if len(labels) == 1 else 'are'} level with it."
    )


def sentences(report: Report, found: Overall) -> list[str]:
    """What a reader of the table over all tasks must know."""
    lines = []
    if found.verdict is not None:
        p = found.verdict.p
        lines.append(
            f"rank: the mean over {len(found.tasks)} tasks, 1 is best. "
            + (
                f"Ranks that differ as much are rare by chance (Friedman, p = {p:.2g})"
                if p <= 0.05
                else f"Ranks may differ as much by chance (Friedman, p = {p:.2g})"
            )
            + f"{_critical(found)}."
        )
    lines.append(_normalised(report, found))
    lines += _failed(found)
    lacking: dict[str, list[str]] = {}
    for one in found.competitors:
        if missing := found.lacks(one):
            lacking.setdefault(", ".join(missing), []).append(one.label)
    lines += [
        f"{', '.join(labels)}: no run on {tasks}, hence no rank; compared in pairs on the others."
        for tasks, labels in lacking.items()
    ]
    return lines


def _critical(found: Overall) -> str:
    assert found.verdict is not None
    if not math.isfinite(found.verdict.critical):
        return "; no difference of two mean ranks of so few tasks is rarer than 1 in 20"
    return (
        f"; two of them are level unless they differ by {found.verdict.critical:.2f} "
        "(critical difference, 95 % for all pairs)"
    )


def _normalised(report: Report, found: Overall) -> str:
    kind = "interquartile mean of all runs" if report.iqm else "mean over tasks"
    begin = f"normalised: {kind} with its 95 % interval"
    others = [task for task in found.tasks if not found.scales[task].from_start]
    if not others:
        return f"{begin}, where 0 is the score at step 0 of a task and 1 its best configuration."
    if len(others) == len(found.tasks):
        return f"{begin}, where 0 is the worst configuration of a task and 1 its best."
    return (
        f"{begin}, where 0 is the score at step 0 of a task and 1 its best configuration; on "
        f"{', '.join(others)} 0 is the worst configuration."
    )


def _failed(found: Overall) -> list[str]:
    if not any(one.failed for one in found.competitors):
        return []
    return [
        "failed: runs that broke or have no number. They count as the worst: their configuration "
        "ranks after those of whose runs a smaller part failed."
    ]


PROBABILITY = (
    "P: how probably a run of the row beats one of the column, over the tasks of both; * where its "
    "95 % interval leaves out 0.5."
)
RECORDS = (
    "Then the tasks that were won-level-lost, by the test of each task's table (Holm, over all "
    "pairs of a task)."
)


def rank(one: Competitor) -> str:
    """The mean rank of a competitor as text."""
    return "-" if math.isnan(one.rank) else f"{one.rank:.2f}"


def standing(found: Overall, one: Competitor) -> str:
    """How a competitor stands by its mean rank, in the words of the tables of tasks."""
    if found.verdict is None or math.isnan(one.rank):
        return ""
    if one is found.competitors[0]:
        return BEST
    return LEVEL if found.level(one) else f"worse by {one.rank - found.competitors[0].rank:.2f}"


def failed(one: Competitor) -> str:
    """How many runs of a competitor count as the worst, as text."""
    return f"{one.failed} of {one.runs}" if one.failed else ""

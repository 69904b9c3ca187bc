"""How configurations stand to the best of them.

The order of rows: those that are compared, the best first; those of one seed, where others have
several; those of which runs broke, whatever their survivors reached; those without a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bilevel_cli.report.compare.comparison import (
    ALONE,
    BEST,
    BROKE,
    LEVEL,
    UNCOMPARED,
    WORSE,
    Behind,
    Estimate,
    Row,
    Standing,
)
from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.compare.scales import Scale
from bilevel_cli.report.compare.statistics import Difference, difference, holm

FEW = 5  # seeds, below which a report says that they are few


def ordered(
    rows: Sequence[Row],
    higher: bool,
    iqm: bool,
    scale: Scale,
    unfinished: Mapping[str, str],
) -> list[Row]:
    """The rows in the order of `Report.rows`, with their standings.

    A run that diverged is worse than any that did not. So a configuration that lost runs comes
    after those that lost none, and is compared with none of them by the runs that are left.

    Args:
        rows: A row for each configuration.
        higher: Whether more of the metric is better.
        iqm: Whether interquartile means are compared.
        scale: On which scores are compared.
        unfinished: Why a configuration without a number has none yet, by its label.
    """
    sign = -1 if higher else 1
    by_value = sorted(
        (row for row in rows if row.values), key=lambda row: sign * row.estimate.value
    )
    whole = [row for row in by_value if not row.lost]
    broke = sorted((row for row in by_value if row.lost), key=_share)
    none = [_without(row, unfinished) for row in rows if not row.values]
    several = [row for row in whole if seeds(row) > 1]
    single = [row for row in whole if seeds(row) == 1]
    if len(rows) == 1:
        whole = [_uncompared(row, ALONE) for row in whole]
    elif several:
        whole = [
            *_compared(several, sign, iqm, scale),
            *(_uncompared(row, "1 seed") for row in single),
        ]
    elif single:
        best, *others = single
        whole = [_best(best), *(_uncompared(row, "1 seed") for row in others)]
    return [*whole, *(_broken(row) for row in broke), *none]


def by_seed(configuration: Configuration, values: Mapping[str, float]) -> dict[str, float]:
    """The values of runs by seed; of several runs with one seed, their mean.

    Args:
        configuration: That of the runs.
        values: A value for each run that has one, by its name.
    """
    found: dict[str, list[float]] = {}
    for run in configuration.runs:
        if run.name in values:
            seed = run.name if run.seed is None else str(run.seed)
            found.setdefault(seed, []).append(values[run.name])
    return {seed: float(np.mean(some)) for seed, some in found.items()}


def seeds(row: Row) -> int:
    """How many seeds of a configuration have a number."""
    return len(by_seed(row.configuration, row.values))


def lost(row: Row) -> str:
    """How many runs were lost: "3 of 6 diverged", "4 of 6 broke: 3 diverged, 1 oom"."""
    of, found = len(row.configuration.runs), sorted(row.lost.items())
    if len(found) == 1:
        ((status, count),) = found
        return f"{count} of {of} {status}"
    statuses = ", ".join(f"{count} {status}" for status, count in found)
    return f"{sum(row.lost.values())} of {of} broke: {statuses}"


def _compared(rows: list[Row], sign: int, iqm: bool, scale: Scale) -> list[Row]:
    """The rows, the best first, each compared with it."""
    best, *others = rows
    leader, *values = (by_seed(row.configuration, row.values) for row in rows)
    found = [difference(own, leader, iqm, scale) for own in values]
    known = [one for one in found if one is not None]
    assert len(known) == len(others), "both have two seeds"
    limits = holm([one.p for one in known], chosen=True)
    behind = [
        Behind(_behind(one, sign, limit), one.p, limit)
        for one, limit in zip(known, limits, strict=True)
    ]
    standings = [Standing(WORSE if _is_worse(one) else LEVEL, "", one) for one in behind]
    return [
        _best(best),
        *(replace(row, standing=one) for row, one in zip(others, standings, strict=True)),
    ]


def _is_worse(behind: Behind) -> bool:
    """Whether it is called worse; not where the seeds in common say the contrary of all seeds."""
    return behind.p <= behind.limit and behind.by.low > 0


def _behind(found: Difference, sign: int, limit: float) -> Estimate:
    low, high = sorted(sign * end for end in found.interval(1 - limit))
    return Estimate(sign * found.value, low, high, found.pairs)


def _best(row: Row) -> Row:
    return replace(row, standing=Standing(BEST))


def _uncompared(row: Row, why: str) -> Row:
    return replace(row, standing=Standing(UNCOMPARED, why))


def _broken(row: Row) -> Row:
    return replace(row, standing=Standing(BROKE, lost(row)))


def _without(row: Row, unfinished: Mapping[str, str]) -> Row:
    """A row without a number: its runs broke, have not come to the budget, or were stopped."""
    if row.lost:
        return _broken(row)
    stopped = ", ".join(sorted(row.counts)) or "no number"
    return _uncompared(row, unfinished.get(row.configuration.label, stopped))


def _share(row: Row) -> float:
    return sum(row.lost.values()) / len(row.configuration.runs)

"""The numbers behind the curves of the page, few enough for a browser."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.compare.comparison import END, UNBOUNDED, Budget, Report, Row
from bilevel_cli.report.compare.configurations import Configuration, name
from bilevel_cli.report.compare.measure import Course, course
from bilevel_cli.report.costs import SECONDS, STEP, axes
from bilevel_cli.report.page.markup import short_names
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show.curves import (
    Numbers,
    axis_of,
    band,
    curve,
    has_mean,
    in_mean,
    spread,
)
from bilevel_cli.report.show.lineup import Entry, Lineup, lineup
from bilevel_cli.report.show.palette import DASHES, style
from bilevel_cli.vocabulary import ENDED_BADLY

MOST_POINTS = 400  # of a curve: a screen has no room for more
FEWEST_POINTS = 20  # of a curve, also where the page becomes larger than intended
MOST_NUMBERS = 1_000_000  # of the page, about seven bytes each
WIDTH = 2.4  # pixels of a line; dashes are given in widths of lines
NO_MEANS: dict[str, Any] = {"grids": [], "means": {}}

Tables = dict[str, dict[str, Course]]


def data(report: Report) -> dict[str, Any]:
    """What the script of the page reads, ready for JSON.

    Returns:
        metrics: The table, "eval" or "train", of each metric.
        axes: The name of the axis of each cost.
        pointwise: The costs against which there are no means.
        metric: The metric that is shown first; "" where each panel shows its own.
        own: The metric that is compared in each panel.
        axis: The cost against which it is shown first.
        budget: The axis and the limit at which runs are compared; None where there is no limit.
        panels: What the panels are called.
        entries: The entries of the legend and their looks, the best first.
        series: For each configuration its place, the means of its runs, and its runs.
    """
    metrics = _metrics(report)
    counted, points = in_mean(report), _points(report, len(metrics))
    names, placed = short_names(report.runs), lineup(report)
    own = _own(report, placed)
    rows = {id(row.configuration): row for row in report.rows}
    first = next(iter(metrics), None)
    return {
        "metrics": metrics,
        "axes": axes(),
        "pointwise": [axis for axis in axes() if not has_mean(axis)],
        "metric": "" if len(set(own)) > 1 else own[0] if own[0] in metrics else first,
        "own": own,
        "axis": axis_of(report.budget),
        "budget": _budget(report.budget),
        "panels": placed.panels,
        "entries": list(map(_entry, placed.entries)),
        "series": [
            {
                **_place(placed, number),
                "compared": _compared(rows[id(one)]),
                **_series(one, names, counted, metrics, points, report.part_of(one)),
            }
            for number, one in enumerate(report.configurations)
        ],
    }


def _own(report: Report, placed: Lineup) -> list[str]:
    """The metric that is compared in each panel; that of the report where there is none."""
    firsts = [placed.panel.index(panel) for panel in range(len(placed.panels))]
    found = [report.part_of(report.configurations[first]).metric for first in firsts]
    return found or [report.metric]


def _metrics(report: Report) -> dict[str, str]:
    """The tables of all columns but steps and seconds: both tables have these, as axes."""
    found: dict[str, str] = {}
    for table in ("eval", "train"):
        for run in report.runs:
            for column in run.evals if table == "eval" else run.train:
                if column not in (STEP, SECONDS):
                    found.setdefault(str(column), table)
    return found


def _points(report: Report, metrics: int) -> int:
    """How many points each curve may have for the page to keep its size."""
    runs = sum(len(one.runs) for one in report.configurations)
    of_runs = runs * (metrics + 2 * len(axes()))
    of_means = len(report.configurations) * metrics * 3 * sum(map(has_mean, axes()))
    return max(FEWEST_POINTS, min(MOST_POINTS, MOST_NUMBERS // (of_runs + of_means + 1)))


def _budget(budget: Budget) -> dict[str, Any] | None:
    if budget.column == END or budget.limit is None:
        return None
    return {"axis": budget.column, "limit": budget.limit}


def _entry(entry: Entry) -> dict[str, Any]:
    colour, dash = style(entry.style)
    return {
        "label": entry.label,
        "colour": colour,
        "dash": ",".join(f"{length * WIDTH:g}px" for length in dash) or "solid",
        "layer": DASHES.index(dash),
        "front": entry.front,
    }


def _place(placed: Lineup, number: int) -> dict[str, int]:
    return {
        "entry": placed.entry[number],
        "panel": placed.panel[number],
        "rank": placed.rank[number],
    }


def _compared(row: Row) -> dict[str, Any] | None:
    """Where the number of the table stands in a plot: at what its runs had spent there."""
    if not row.values:
        return None
    (value,) = _rounded(np.array([row.estimate.value]))
    spent = _rounded(np.array([row.costs[axis] for axis in axes()]), 8)
    return {"x": dict(zip(axes(), spent, strict=True)), "y": value} if value is not None else None


def _series(
    configuration: Configuration,
    names: Mapping[str, str],
    counted: set[str],
    metrics: Mapping[str, str],
    points: int,
    part: Report,
) -> dict[str, Any]:
    courses = {run.name: _courses(run, metrics) for run in configuration.runs}
    averaged = [courses[run.name] for run in configuration.runs if run.name in counted]
    return {
        "label": name(configuration),
        **(_means(averaged, metrics, points, part) if len(averaged) > 1 else NO_MEANS),
        "runs": [
            {
                "name": names[run.name],
                "status": run.status,
                "broken": run.status in ENDED_BADLY,
                "counted": run.name in counted,
                "tables": _tables(courses[run.name], metrics, points),
            }
            for run in configuration.runs
        ],
    }


def _courses(run: Run, metrics: Iterable[str]) -> dict[str, Course]:
    found = {metric: course(run, metric) for metric in metrics}
    return {metric: one for metric, one in found.items() if one is not None}


def _tables(
    courses: Mapping[str, Course], metrics: Mapping[str, str], points: int
) -> dict[str, dict[str, Any]]:
    """The rows of a run that are shown, by table: its costs as `x`, its metrics as `y`."""
    tables: dict[str, dict[str, Any]] = {}
    for table in dict.fromkeys(metrics.values()):
        # A metric may be in the other table of this run than in that of most runs: it has another
        # length, and is not shown.
        some = {name: one for name, one in courses.items() if metrics[name] == table}
        length = max((len(one.values) for one in some.values()), default=0)
        some = {name: one for name, one in some.items() if len(one.values) == length}
        if length:
            rows, first = _rows(some.values(), length, points), next(iter(some.values()))
            tables[table] = {
                "x": {axis: _rounded(first.costs[axis][rows], 8) for axis in axes()},
                "y": {name: _rounded(one.values[rows]) for name, one in some.items()},
            }
    return tables


def _rows(courses: Iterable[Course], length: int, points: int) -> NDArray[np.intp]:
    """The rows to show: evenly spaced ones, and the last finite one of each column."""
    ends = [np.flatnonzero(np.isfinite(one.values))[-1:] for one in courses]
    return np.unique(np.concatenate([spread(length, points), *ends]))


def _means(
    runs: list[dict[str, Course]],
    metrics: Mapping[str, str],
    points: int,
    part: Report,
) -> dict[str, Any]:
    """Means and intervals by metric and axis, each with the position of its grid in `grids`."""
    grids: dict[bytes, int] = {}
    lists: list[list[float | None]] = []
    means: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        for axis in filter(has_mean, axes()):
            curves = [curve(run.get(metric), axis) for run in runs]
            within = part.within if metric == part.metric else UNBOUNDED
            found = band(curves, points, within)
            if found is None:
                continue
            grid = grids.setdefault(found.x.tobytes(), len(lists))
            if grid == len(lists):
                lists.append(_rounded(found.x, 8))
            means.setdefault(metric, {})[axis] = {
                "grid": grid,
                "mean": _rounded(found.mean),
                "low": _rounded(found.low),
                "high": _rounded(found.high),
            }
    return {"grids": lists, "means": means}


def _rounded(values: Numbers, digits: int = 5) -> list[float | None]:
    """The values to some significant digits; None for those that are not finite."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]

"""One plot of a figure on paper: curves with their bands, and their names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.compare.comparison import END, Budget, Report, Row
from bilevel_cli.report.compare.measure import course
from bilevel_cli.report.show import palette
from bilevel_cli.report.show.curves import (
    LARGEST,
    Band,
    Curve,
    axis_of,
    band,
    curve,
    end,
    has_mean,
    in_mean,
    spread,
)
from bilevel_cli.report.show.lineup import Lineup, lineup
from bilevel_cli.report.show.scale import Scale, scale
from bilevel_cli.vocabulary import ENDED_BADLY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 400  # the most points of a curve
GREY = "#b9b9b4"  # of curves behind others
MARK = "#6b6b66"  # of the line where runs are compared
MOST_FILLED = 0.5  # of the width of a plot by a band, as in page/assets/curves.js
EARLY_END = 0.15  # of the width: a curve that ends before it has its name inside the plot
LEADER = {"arrowstyle": "-", "lw": 0.4, "shrinkA": 1, "shrinkB": 2}  # from a curve to its name
BACKING = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.4}  # of a name among curves
LETTERS_HIGH = 1.25  # the height of a line of text, in sizes of its letters

Point = tuple[float, float]


class Traced(NamedTuple):
    """What is drawn of a configuration.

    Attributes:
        label: Its name in the legend.
        style: Its number in the palette.
        mean: The mean of its runs with its interval; None where there is none.
        singles: The curves of runs that are in no mean.
        crosses: Where runs broke.
        compared: The number of the table, at what its runs had spent by then; None without one.
    """

    label: str
    style: int
    mean: Band | None
    singles: list[Curve]
    crosses: list[Point]
    compared: Point | None

    @property
    def curves(self) -> list[Curve]:
        """The curves that are compared with those of others."""
        return self.singles if self.mean is None else [Curve(self.mean.x, self.mean.mean)]

    @property
    def looks(self) -> dict[str, Any]:
        """Its colour and dash, as matplotlib takes them."""
        dash = palette.style(self.style).dash
        return {"color": palette.colour(self.style), "ls": (0, dash) if dash else "solid"}


def traced(report: Report) -> tuple[Lineup, list[Traced]]:
    """Who stands where in a figure, and what is drawn of each configuration of a report."""
    placed, counted, cost = lineup(report), in_mean(report), axis_of(report.budget)
    rows = {id(row.configuration): row for row in report.rows}
    found = []
    for number, configuration in enumerate(report.configurations):
        runs, part = configuration.runs, report.part_of(configuration)
        curves = {run.name: _drawn(curve(course(run, part.metric), cost)) for run in runs}
        whole = [one for name, one in curves.items() if name in counted]
        mean = band(whole, POINTS, part.within) if has_mean(cost) else None
        ends = [end(curves[run.name]) for run in runs if run.status in ENDED_BADLY]
        found.append(
            Traced(
                placed.entries[placed.entry[number]].label,
                placed.style(number),
                mean,
                [one for name, one in curves.items() if mean is None or name not in counted],
                [one for one in ends if one is not None],
                _compared(rows[id(configuration)], cost),
            )
        )
    return placed, found


def _drawn(one: Curve) -> Curve:
    """The part of a curve that can be drawn."""
    x, y = (values[np.abs(one.x) <= LARGEST] for values in one)
    return Curve(x, np.where(np.abs(y) <= LARGEST, y, np.nan))


def _compared(row: Row, cost: str) -> Point | None:
    point = (row.costs.get(cost, np.nan), row.estimate.value)
    return point if row.values and (np.abs(point) <= LARGEST).all() else None


def plot(
    axes: "Axes",
    front: Sequence[Traced],
    behind: Sequence[Traced],
    budget: Budget,
    shown: Scale | None = None,
) -> Scale | None:
    """Draws some configurations in their looks, and others in grey behind them.

    Args:
        axes: Where to draw.
        front: In their looks, the best first.
        behind: In grey.
        budget: Where runs are compared, which a dotted line marks.
        shown: The vertical range; None for that in which the curves can be told apart.

    Returns:
        The vertical range; None without a number.
    """
    for one in behind:
        for line in one.curves:
            axes.plot(*_thinned(line), color=GREY, lw=0.6, zorder=1.5)
    cost = axis_of(budget)
    single = {"lw": 0.7} if has_mean(cost) else {"marker": "o", "ms": 2, "lw": 0}
    for one in front:
        # Dashes on top of solid lines: two curves that coincide are both seen.
        above = 2 + palette.DASHES.index(palette.style(one.style).dash) / len(palette.DASHES)
        if one.mean is not None:
            axes.plot(one.mean.x, one.mean.mean, zorder=above, **one.looks)
        for line in one.singles:
            axes.plot(*_thinned(line), zorder=above, **one.looks, **single)
    if shown is None:
        compared = [line for one in front for line in one.curves]
        bands = [one.mean for one in front for _ in one.curves]
        shown = scale(compared, bands, [line for one in behind for line in one.curves])
    if shown:
        axes.set_ylim(shown.low, shown.high)
    for one in front:
        if one.mean is not None and not hides(one.mean, shown):
            x, _, low, high = one.mean
            colour = one.looks["color"]
            axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0, zorder=1.8)
    if budget.column != END and budget.limit is not None and cost == budget.column:
        axes.axvline(budget.limit, color=MARK, lw=0.6, ls=(0, (1, 2)), zorder=1.7)
    for one in reversed(front):  # the best on top
        _mark(axes, one, shown)
    axes.margins(x=0.02)
    return shown


def hides(one: Band, shown: Scale | None) -> bool:
    """Whether a band fills most of the plot from top to bottom, and so says nothing.

    The runs of hard problems and of easy ones differ by more than methods do.
    """
    if shown is None:
        return False
    return bool(((one.low <= shown.low) & (one.high >= shown.high)).mean() > MOST_FILLED)


def _thinned(line: Curve) -> Curve:
    rows = spread(len(line.x), POINTS)
    return Curve(line.x[rows], line.y[rows])


def _mark(axes: "Axes", one: Traced, shown: Scale | None) -> None:
    """A dot for the number in the table, and a cross for each run that broke."""
    colour = one.looks["color"]
    looks: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "zorder": 4}
    if one.compared and shown and shown.low <= one.compared[1] <= shown.high:
        axes.plot(*one.compared, "o", markersize=4, markeredgewidth=0.6, clip_on=False, **looks)
    for x, y in one.crosses:  # of a run that left the plot, at the edge where it did
        y = min(max(y, shown.low), shown.high) if shown else y
        axes.plot(x, y, "X", markersize=6, clip_on=False, **looks)


def arrow(one: Traced, shown: Scale | None) -> str:
    """Where the end of a curve is, if it is out of view: an arrow up or down, or ""."""
    last = last_point(one)
    if last is None or shown is None:
        return ""
    return " \u2191" if last[1] > shown.high else " \u2193" if last[1] < shown.low else ""


def name_ends(axes: "Axes", front: Sequence[Traced], shown: Scale, height: float) -> None:
    """Writes the name of each curve beside its end, as near as the others let.

    Args:
        axes: Where the curves are drawn.
        front: Of these.
        shown: The vertical range.
        height: Of the axes, in sizes of letters.
    """
    ends = [(one, last) for one in front if (last := last_point(one)) is not None]
    starts = [float(line.x[0]) for one, _ in ends for line in one.curves if len(line.x)]
    right, left = max((x for _, (x, _) in ends), default=0.0), min(starts, default=0.0)
    early = [one for one in ends if one[1][0] < right - EARLY_END * (right - left)]
    late = [one for one in ends if one not in early]
    edge: dict[str, Any] = {"textcoords": "axes fraction", "annotation_clip": False}
    inside: dict[str, Any] = {"textcoords": ("offset points", "axes fraction"), "bbox": BACKING}
    for some, x_text, coordinates in ((early, 10.0, inside), (late, 1.03, edge)):
        wanted = [(y - shown.low) / (shown.high - shown.low) for _, (_, y) in some]
        places = apart(np.clip(wanted, 0, 1), LETTERS_HIGH / height)
        for (one, (x, y)), place in zip(some, places, strict=True):
            colour = one.looks["color"]
            axes.annotate(
                f"{one.label}{arrow(one, shown)}",
                (x, min(max(y, shown.low), shown.high)),
                xytext=(x_text, place),
                color=colour,
                va="center",
                arrowprops={**LEADER, "color": colour},
                **coordinates,
            )


def apart(wanted: Sequence[float] | NDArray[np.float64], room: float) -> list[float]:
    """The places nearest to those that are wanted, from 0 to 1, with some room between any two.

    Nearest in least squares: without the room that each needs below it, the places in their order
    are an isotonic regression, by pooling neighbours that are out of order.

    Args:
        wanted: Of shape [n], from 0 to 1.
        room: Between two; less where so many do not fit.
    """
    order = np.argsort(wanted, kind="stable")
    room = min(room, 1 / max(len(order), 1))
    pools: list[tuple[float, int]] = []  # a mean, and of how many
    for number, place in enumerate(order):
        mean, count = float(wanted[place]) - number * room, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    most = 1 - (len(order) - 1) * room
    places = [0.0] * len(order)
    for number, place in enumerate(order):
        places[place] = min(max(means[number], 0.0), most) + number * room
    return places


def last_point(one: Traced) -> Point | None:
    """Where the curve of a configuration ends; None where it has none."""
    ends = [last for line in one.curves if (last := end(line)) is not None]
    return max(ends, default=None)

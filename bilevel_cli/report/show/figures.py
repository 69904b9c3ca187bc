"""The curves of the metric as a figure for a paper: PNG, SVG or PDF, the same bytes every time."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bilevel_cli.errors import UsageError
from bilevel_cli.report.compare import configurations
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.compare.measure import course
from bilevel_cli.report.costs import axes as axes_of_costs
from bilevel_cli.report.show import palette
from bilevel_cli.report.show.cells import words
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
    window,
)
from bilevel_cli.vocabulary import ENDED_BADLY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 3.3  # inches: a column of most templates
HEIGHT = 2.2  # inches of the plot without its legend
ROW = 0.17  # inches of a row of the legend
LETTERS = 52  # how many letters of 8 pt fit into a row of the legend
KEY = 7  # how many letters the line and the gaps of an entry of the legend are wide
POINTS = 400  # the most points of a curve
SUFFIXES = (".png", ".svg", ".pdf")

# The same bytes every time: no dates, no names from a random salt. No TeX: letters stay letters.
STYLE: dict[str, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "grid.linewidth": 0.4,
    "grid.color": "#e3e3e3",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "bilevel-report",
    "savefig.dpi": 300,
    "text.usetex": False,
    "text.parse_math": False,  # a dollar in a label is a dollar
}
# A PNG has no date in the first place.
METADATA = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def save(report: Report, path: Path) -> None:
    """Draws the metric against the cost at which runs are compared, with a band for each mean.

    A run that broke ends in a cross. The legend stands above the plot, and covers nothing.

    Args:
        report: The comparison.
        path: The file; its suffix is the format.

    Raises:
        UsageError: matplotlib is missing, the format is none of `SUFFIXES`, there is no metric, or
            the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"--figure needs a file ending in {', '.join(SUFFIXES)}, got {path}.")
    if not report.metric:
        raise UsageError("--figure needs a metric to draw, got runs that have not been evaluated.")
    try:
        from matplotlib import style  # here: only the figure needs it
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "--figure needs matplotlib, got a Python without it. pip install 'bilevel-cli[report]'"
        ) from error
    with style.context(STYLE, after_reset=True):  # a matplotlibrc of this machine changes nothing
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        _draw(figure.add_subplot(), report)
        columns = _columns([configurations.name(one) for one in report.configurations])
        rows = -(-len(report.configurations) // columns)
        figure.set_size_inches(WIDTH, HEIGHT + ROW * rows)
        figure.legend(
            loc="outside upper left",
            ncols=columns,
            handlelength=2.2,
            columnspacing=1.2,
            handletextpad=0.5,
            borderaxespad=0.1,
            labelspacing=0.25,
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph")  # one that the font lacks is a box
                figure.savefig(path, format=suffix[1:], metadata=METADATA[suffix])
        except OSError as error:
            raise UsageError(
                f"--figure needs a file that can be written, got {path}: {error.strerror}."
            ) from error


def _draw(axes: "Axes", report: Report) -> None:
    cost = axis_of(report.budget)
    counted = in_mean(report)
    drawn = [
        _draw_series(axes, number, one, report.metric, cost, counted)
        for number, one in enumerate(report.configurations)
    ]
    shown = window(
        [c for one in drawn for c in one.curves], [b for one in drawn for b in one.bands]
    )
    axes.set_xlabel(axes_of_costs()[cost])
    axes.set_ylabel(words(report.metric))
    axes.margins(x=0.02)
    axes.locator_params(nbins=6)
    if shown:
        axes.set_ylim(*shown)
    for number, one in enumerate(drawn):
        colour = palette.colour(number)
        for x, y in one.crosses:  # of a run that left the plot, at the edge where it did
            y = min(max(y, shown[0]), shown[1]) if shown else y
            axes.plot(x, y, "X", color=colour, markersize=6, markeredgecolor="white", clip_on=False)


class Drawn(NamedTuple):
    """What was drawn of a configuration.

    Attributes:
        curves: The curves that the plot must show.
        bands: The bands around them.
        crosses: Where runs broke.
    """

    curves: list[Curve]
    bands: list[Band]
    crosses: list[tuple[float, float]]


def _draw_series(
    axes: "Axes",
    number: int,
    configuration: Configuration,
    metric: str,
    cost: str,
    counted: set[str],
) -> Drawn:
    dash = palette.style(number).dash
    looks: dict[str, Any] = {"color": palette.colour(number), "ls": (0, dash) if dash else "solid"}
    # The legend has every configuration, also one without a curve.
    axes.plot([], [], label=_shortened(configurations.name(configuration)), **looks)
    curves = {run.name: _drawn(curve(course(run, metric), cost)) for run in configuration.runs}
    whole = [one for name, one in curves.items() if name in counted]
    mean = band(whole, POINTS) if has_mean(cost) else None
    if mean is not None:
        axes.plot(mean.x, mean.mean, **looks)
        axes.fill_between(mean.x, mean.low, mean.high, color=looks["color"], alpha=0.16, lw=0)
    single = {"lw": 0.7} if has_mean(cost) else {"marker": "o", "ms": 2, "lw": 0}
    for name, one in curves.items():
        if mean is None or name not in counted:
            rows = spread(len(one.x), POINTS)
            axes.plot(one.x[rows], one.y[rows], **looks, **single)
    ends = [end(curves[run.name]) for run in configuration.runs if run.status in ENDED_BADLY]
    return Drawn(
        whole if mean is None else [Curve(mean.x, mean.mean)],
        [] if mean is None else [mean],
        [one for one in ends if one is not None],
    )


def _drawn(one: Curve) -> Curve:
    """The part of a curve that can be drawn."""
    x, y = (values[np.abs(one.x) <= LARGEST] for values in one)
    return Curve(x, np.where(np.abs(y) <= LARGEST, y, np.nan))


def _columns(labels: list[str]) -> int:
    """How many columns a legend with these labels may have in the width of the figure."""
    longest = max((len(_shortened(label)) for label in labels), default=0)
    return max(1, min(len(labels), LETTERS // (longest + KEY)))


def _shortened(label: str) -> str:
    room = LETTERS - KEY
    return label if len(label) <= room else f"{label[: room - 3]}..."

"""Figures in one style, small enough to be kept with the page."""

from pathlib import Path
from typing import Any

from reproductions.item import Figure
from reproductions.results import Results

STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 7,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "legend.fontsize": 6,
}


def draw(wanted: Figure, results: Results, path: Path) -> None:
    """Draws the figure into a PNG file."""
    import matplotlib  # an extra: the page without figures needs none

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(6.5, 2.6), layout="constrained")
        wanted.draw(results, figure)
        if len(figure.axes) > 3:
            figure.set_size_inches(6.5, 3.6)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, metadata={"Software": None})
        pyplot.close(figure)


def legend(pane: Any, **where: Any) -> None:
    """A legend, where there is something to name: what was not run is not drawn."""
    if pane.get_legend_handles_labels()[1]:
        pane.legend(**where)


def legend_below(figure: Any, pane: Any) -> None:
    """One legend for all panes, that of `pane`."""
    lines, labels = pane.get_legend_handles_labels()
    if labels:
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels))

"""How time and memory of an estimate grow, a line for each method: docs/scaling.md.

    python docs/pictures/scaling.py POINTS.csv scaling.svg

`python -m benchmarks scaling` calls it with what it has measured.
"""

import sys
from pathlib import Path

import look
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

SIZES = {
    "rows": "rows",
    "inner": "inner parameters",
    "outer": "outer parameters",
    "steps": "inner steps",
}
LEAST = 2.0  # megabytes, below which what a process asks its system for is no measurement
SURE = 8.0  # megabytes, to which it is good to a tenth
LOUD = 1.1  # an exponent above which a line has a colour and a name
COLOURS = (look.ORANGE, look.BLUE, look.GREEN, look.PURPLE)


def draw(points: Path, picture: Path) -> None:
    table = pd.read_csv(points)
    table = table[table["outcome"] == "measured"]
    drawing = look.figure(900, 430)
    panels = drawing.subplots(2, len(SIZES), sharex="col", sharey="row")
    for row, column in enumerate(("cpu", "megabytes")):
        for axes, (along, size) in zip(panels[row], SIZES.items(), strict=True):
            axes.set(xscale="log", yscale="log", xlabel=size if row else "")
            for method, ladder in table[table["along"] == along].groupby("of"):
                seen = (
                    ladder[ladder["cpu"] > 0] if row == 0 else ladder[ladder["megabytes"] > LEAST]
                )
                known = seen["size"].to_numpy(), seen[column].to_numpy()
                line(axes, str(method), *known, least=SURE if row else 0.0)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_formatter(NullFormatter())
            if row == 0:
                left, right = axes.get_xlim()
                axes.set(xlim=(left, right * 3))  # room for names
    for axes in panels.flat:
        guide(axes)
    for row, name in enumerate(("CPU seconds", "megabytes")):
        panels[row][0].set_ylabel(name)
    drawing.suptitle("One estimate; dashed: in proportion. Named: exponents above 1.1", fontsize=11)
    look.save(drawing, picture)


def line(axes: look.Axes, method: str, sizes: np.ndarray, values: np.ndarray, least: float) -> None:
    loud = (
        len(sizes) > 1
        and values[-2] > least
        and values[-1] > values[-2] * (sizes[-1] / sizes[-2]) ** LOUD
    )
    colour = COLOURS[len(axes.texts) % len(COLOURS)] if loud else look.FAINT
    axes.plot(sizes, values, color=colour, linewidth=1.4 if loud else 0.6, zorder=3 if loud else 2)
    if loud:
        look.label(axes, sizes[-1], values[-1], method, colour)


def guide(axes: look.Axes) -> None:
    """A line of slope 1 through the lower left of what is drawn."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    end = min(right, left * top / bottom)
    axes.plot([left, end], [bottom, bottom * end / left], "--", color=look.INK, linewidth=0.8)
    axes.set(xlim=(left, right), ylim=(bottom, top))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))

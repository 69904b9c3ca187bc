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
LOUD = 1.1  # an exponent above which a line has a colour and a name
COLOURS = (look.ORANGE, look.BLUE, look.GREEN, look.PURPLE)


def draw(points: Path, picture: Path) -> None:
    table = pd.read_csv(points)
    table = table[table["outcome"] == "measured"]
    drawing = look.figure(900, 430)
    panels = drawing.subplots(2, len(SIZES), sharey="row")
    for row, (column, name) in enumerate((("cpu", "CPU seconds"), ("megabytes", "megabytes"))):
        for axes, (along, size) in zip(panels[row], SIZES.items(), strict=True):
            axes.set(xscale="log", yscale="log", xlabel=size if row else "")
            for method, ladder in table[table["along"] == along].groupby("of"):
                seen = (
                    ladder[ladder["cpu"] > 0] if row == 0 else ladder[ladder["megabytes"] > LEAST]
                )
                line(axes, str(method), seen["size"].to_numpy(), seen[column].to_numpy())
            guide(axes)
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[row][0].set_ylabel(name)
    drawing.suptitle("One estimate; dashed: in proportion. Named: exponents above 1.1", fontsize=11)
    look.save(drawing, picture)


def line(axes: look.Axes, method: str, sizes: np.ndarray, values: np.ndarray) -> None:
    steep = len(sizes) > 1 and values[-1] > values[-2] * (sizes[-1] / sizes[-2]) ** LOUD
    loud = steep and values[-1] > values[0] * 2
    colour = COLOURS[len(axes.texts) % len(COLOURS)] if loud else look.FAINT
    axes.plot(sizes, values, color=colour, linewidth=1.4 if loud else 0.6, zorder=3 if loud else 2)
    if loud:
        look.label(axes, sizes[-1], values[-1], method, colour)


def guide(axes: look.Axes) -> None:
    """A line of slope 1 through the lower left of what is drawn."""
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    axes.plot([left, right], [bottom, bottom * right / left], "--", color=look.INK, linewidth=0.8)
    axes.set(xlim=(left, right * 3))  # room for names


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))

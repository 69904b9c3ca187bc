"""Small charts as SVG, for what runs left besides curves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.report.page.markup import escape, picture

BINS = 40  # of a histogram
WIDTH, HEIGHT, LEFT, FOOT = 320, 150, 8, 34  # of a plot and its margins, in units of its view box
SPARK = (120, 24)  # pixels of a curve within a row of a table

Numbers = NDArray[np.float64]


def histogram(title: str, groups: dict[str, Numbers]) -> str:
    """How many values of each group are where.

    Args:
        title: What the values are.
        groups: The values by the name of their group, of which some are finite.
    """
    every = np.concatenate(list(groups.values()))
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    if low >= 0 and high <= 1:  # shares, as most weights are, have the same axis in all pictures
        low, high = 0.0, 1.0
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = {name: np.histogram(values, edges)[0] for name, values in groups.items()}
    tallest = max(int(count.max()) for count in counts.values()) or 1
    step = (WIDTH - 2 * LEFT) / BINS
    bars = []
    for index, count in enumerate(counts.values()):
        tops = (1 - count / tallest) * HEIGHT
        path = "".join(
            f"V{top:.1f}H{LEFT + (i + 1) * step:.1f}" for i, top in enumerate(tops.tolist())
        )
        bars.append(f'<path class="part{index}" d="M{LEFT} {HEIGHT}{path}V{HEIGHT}Z"/>')
    legend = "".join(
        f'<span class="key"><i class="part{index}"></i>{name} ({len(values)})</span>'
        for index, (name, values) in enumerate(groups.items())
    )
    label = f"{title}: " + ", ".join(
        f"{name}, {len(values)}, median {np.nanmedian(values):.3g}"
        for name, values in groups.items()
        if np.isfinite(values).any()
    )
    plot = _plot(label, "".join(bars), float(edges[0]), float(edges[-1]))
    return f"{plot}<figcaption>{title}<br>{legend}</figcaption>"


def scatter(title: str, x: Numbers, y: Numbers, names: Sequence[str]) -> str:
    """A dot for each pair of numbers.

    Args:
        title: What is shown.
        x: Finite, of shape [n].
        y: At least 0, likewise.
        names: What a dot says where a mouse rests on it.
    """
    left, right, top = float(x.min()), float(x.max()), float(y.max()) or 1.0
    width = right - left or 1.0
    dots = "".join(
        f'<circle class="part0" r="3" cx="{LEFT + (a - left) / width * (WIDTH - 2 * LEFT):.1f}"'
        f' cy="{HEIGHT - b / top * (HEIGHT - 10):.1f}"><title>{escape(name)}</title></circle>'
        for a, b, name in zip(x.tolist(), y.tolist(), names, strict=True)
    )
    label = f"{title}: {len(x)} features"
    return f"{_plot(label, dots, left, right)}<figcaption>{title}</figcaption>"


def spark(values: Numbers, marked: int) -> str:
    """The course of a number as a small curve, with a dot.

    Args:
        values: Of shape [n].
        marked: The position of the dot.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        return ""
    width, height = SPARK
    low, high = float(values[known].min()), float(values[known].max())
    x = 4 + known / max(len(values) - 1, 1) * (width - 8)
    y = height - 4 - (values[known] - low) / (high - low or 1.0) * (height - 8)
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    at = np.flatnonzero(known == marked)
    dot = f'<circle r="3" cx="{x[at[0]]:.1f}" cy="{y[at[0]]:.1f}"/>' if len(at) else ""
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg class="spark" {box} aria-hidden="true"><path d="M{path}"/>{dot}</svg>'


def short(value: object) -> str:
    """A cell of a table of the user's as text: whole numbers in full, others to four digits."""
    if not isinstance(value, float):  # of which np.float64 is one
        return str(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _plot(label: str, marks: str, left: float, right: float) -> str:
    middle = (left + right) / 2
    ticks = "".join(
        f'<text x="{x}" y="{HEIGHT + 18}" text-anchor="{anchor}">{short(value)}</text>'
        for x, value, anchor in (
            (LEFT, left, "start"),
            (WIDTH / 2, middle, "middle"),
            (WIDTH - LEFT, right, "end"),
        )
    )
    line = f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    return picture(label, WIDTH, HEIGHT + FOOT - 10, f"{marks}{line}{ticks}")

"""The section of the page on scores after other numbers of inner steps than in training."""

import math
from collections.abc import Callable

import numpy as np

from bilevel_cli.report.across import by_steps
from bilevel_cli.report.across.by_steps import FRONT, across, spaced
from bilevel_cli.report.across.panels import looks_of_runs
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.step_sweep import StepSweep, Swept, step_sweeps
from bilevel_cli.report.page.markup import (
    card,
    dashes,
    escape,
    headed,
    picture,
    row_of,
    swatch,
    table_of,
)
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show import cells
from bilevel_cli.report.show.palette import style

WIDTH, HEIGHT = 560, 240  # of a chart without its foot, in units of its view box
LEFT, RIGHT, TOP, FOOT = 56, 12, 16, 24  # its margins
PLUS_MINUS = "\u00b1"
PARTS = 4  # of the height, with a line of the grid between any two

Point = Callable[[float, float], tuple[float, float]]


def section(report: Report) -> str:
    """A curve for each configuration, and its numbers, for each task; "" where there are none."""
    found, styles = step_sweeps(report), looks_of_runs(report)
    if not found:
        return ""
    parts = []
    for name, one in found.items():
        title = f"<h3>{escape(name)}</h3>" if name else ""
        parts.append(f"{title}{_chart(one, styles)}{_table(one, styles)}")
    return card("inner-steps", "Scores by inner steps at test time", "".join(parts))


def _table(found: StepSweep, styles: dict[Run, int]) -> str:
    (first, *head), *rows = by_steps.table(found, PLUS_MINUS)
    lines = [
        row_of(
            f"{swatch(styles[one.row.configuration.runs[0]])}{escape(label)}",
            (f"<td>{escape(cell)}</td>" for cell in others),
        )
        for one, (label, *others) in zip(found.swept, rows, strict=True)
    ]
    table = table_of("Scores by inner steps", headed(first, map(escape, head)), lines)
    return f'{table}<p class="note">{escape(by_steps.sentence(found))}</p>'


def _chart(found: StepSweep, styles: dict[Run, int]) -> str:
    every = [one for swept in found.swept for one in swept.estimates.values()]
    ends = [end for one in every for end in (one.value, one.low, one.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    height = high - low or 1.0
    span = across([*found.counts, *found.trained])
    first, last = float(span.min()), float(span.max())

    def point(count: float, value: float) -> tuple[float, float]:
        part = (float(across([count])[0]) - first) / (last - first or 1.0)
        y = HEIGHT - (value - low) / height * (HEIGHT - TOP)
        return LEFT + part * (WIDTH - LEFT - RIGHT), y

    marks = []
    for value in np.linspace(low, high, PARTS + 1).tolist():
        y = point(0, value)[1]
        marks.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="var(--grid)"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    for count in spaced(found.counts):
        x = point(count, low)[0]
        marks.append(f'<text x="{x:.1f}" y="{HEIGHT + 18}" text-anchor="middle">{count}</text>')
    for count in found.trained:
        x = point(count, low)[0]
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT}" stroke-dasharray="1 3"/>'
            f'<text x="{x:.1f}" y="{TOP - 5}" text-anchor="middle">K = {count}</text>'
        )
    for place, one in reversed(list(enumerate(found.swept))):
        marks.append(_curve(one, point, styles[one.row.configuration.runs[0]], place < FRONT))
    said = f"{cells.words(found.score)} against inner steps at test time"
    caption = (
        f"{escape(said.capitalize())}. Dotted: the inner steps of training, K. Bands: 95&nbsp;% "
        "intervals over seeds."
    )
    drawn = picture(said, WIDTH, HEIGHT + FOOT, "".join(marks))
    return f'<figure style="max-width: 720px">{drawn}<figcaption>{caption}</figcaption></figure>'


def _curve(one: Swept, point: Point, number: int, front: bool) -> str:
    """A line through the means with a dot at each, a ring at the steps of training, and a band."""
    looks = style(number)
    colour = f"var(--c{looks.colour})" if front else "var(--line)"
    middle = [point(count, found.value) for count, found in one.estimates.items()]
    known = {n: found for n, found in one.estimates.items() if math.isfinite(found.low)}
    edge = [point(n, found.high) for n, found in known.items()]
    edge += [point(n, found.low) for n, found in reversed(known.items())]
    band = f'<polygon points="{_joined(edge)}" fill="{colour}" fill-opacity=".12"/>'
    label = f"<title>{escape(one.row.configuration.label)}</title>"
    line = (
        f'<polyline points="{_joined(middle)}" fill="none" stroke="{colour}" stroke-width="2"'
        f"{dashes(looks, 2)}>{label}</polyline>"
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in middle)
    if one.trained in one.estimates:
        x, y = point(one.trained, one.estimates[one.trained].value)
        ring = f'fill="none" stroke="{colour}" stroke-width="1.5"'
        dots += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" {ring}/>'
    return f"{band * (front and bool(edge))}{line}{dots}"


def _joined(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

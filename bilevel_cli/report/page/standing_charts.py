"""Two charts of standings over tasks, as SVG: mean ranks, and performance profiles."""

import math

import numpy as np

from bilevel_cli.report.across import normalised
from bilevel_cli.report.across.overall import Overall
from bilevel_cli.report.across.panels import BANDS, FRONT
from bilevel_cli.report.page.markup import dashes, escape, picture
from bilevel_cli.report.show import terminal
from bilevel_cli.report.show.palette import style

WIDTH = 480  # of a chart, in units of its view box: about the pixels that it has
LEFT, RIGHT, TOP = 150, 40, 26  # its margins
ROW = 22  # the height of a configuration in the chart of ranks
HEIGHT, FOOT = 230, 34  # of the chart of profiles
LETTERS = 22  # of a label beside the ranks


def charts(found: Overall, styles: dict[str, int]) -> str:
    """Both charts.

    Args:
        found: The standings, of two configurations at least.
        styles: The number in the palette of each configuration, by its label.
    """
    grid = "grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); margin: 24px 0"
    both = f"{_ranks(found, styles)}{_profiles(found, styles)}"
    return f'<div class="pictures" style="{grid}">{both}</div>'


def _ranks(found: Overall, styles: dict[str, int]) -> str:
    """A dot at each mean rank, and the reach of the critical difference behind the best."""
    shown, verdict = found.ranked, found.verdict
    assert verdict is not None, "two configurations are ranked"
    count = len(shown)
    height = TOP + ROW * count

    def across(rank: float) -> float:
        return LEFT + (min(rank, count) - 1) / (count - 1) * (WIDTH - LEFT - RIGHT)

    far = across(shown[0].rank + verdict.critical)
    near = across(shown[0].rank)
    marks = [
        f'<rect x="{near:.1f}" y="{TOP - 6}" width="{far - near:.1f}" height="{height - TOP + 6}" '
        'fill="var(--grid)"/>',
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{TOP - 6}" y2="{TOP - 6}"/>',
    ]
    for rank in _ticks(count):
        marks.append(
            f'<text x="{across(rank):.1f}" y="{TOP - 12}" text-anchor="middle">{rank}</text>'
        )
    for place, one in enumerate(shown):
        y = TOP + ROW * (place + 0.5)
        colour = style(styles[one.label]).colour
        label = escape(terminal.shortened(one.label, LETTERS))
        x = across(one.rank)
        marks.append(
            f'<text x="0" y="{y + 4:.1f}">{label}</text>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="var(--c{colour})"/>'
            f'<text x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{one.rank:.2f}</text>'
        )
    said = "Mean ranks: " + ", ".join(f"{one.label} {one.rank:.2f}" for one in shown)
    caption = "Mean rank over tasks, 1 is best."
    if math.isfinite(verdict.critical):
        caption += f" Grey: within the critical difference {verdict.critical:.2f} of the best."
    return _figure(said, height, marks, caption)


def _ticks(count: int) -> list[int]:
    step = max(1, math.ceil((count - 1) / 8))
    return (
        [*range(1, count, step), count] if (count - 1) % step == 0 else [*range(1, count + 1, step)]
    )


def _profiles(found: Overall, styles: dict[str, int]) -> str:
    """What part of the runs of each configuration came further than each normalised score."""
    thresholds = normalised.thresholds([found.scaled(one) for one in found.ranked])
    low, high = float(thresholds[0]), float(thresholds[-1])
    left, bottom = 34, HEIGHT
    x = left + (thresholds - low) / (high - low) * (WIDTH - left - 10)
    marks = []
    for part in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - part * (HEIGHT - 12)
        marks.append(
            f'<path d="M{left} {y:.1f}H{WIDTH - 10}" stroke="var(--grid)"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{part:g}</text>'
        )
    for value in _round(low, high):
        at = left + (value - low) / (high - low) * (WIDTH - left - 10)
        marks.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
    for place, one in reversed(list(enumerate(found.ranked))):
        parts, lower, upper = normalised.profile(found.scaled(one), thresholds)
        looks = style(styles[one.label])
        colour = f"var(--c{looks.colour})" if place < FRONT else "var(--line)"
        if place < BANDS:
            some = (parts > 0) & (parts < 1)
            edge = _points(x[some], upper[some], bottom)
            edge += _points(x[some][::-1], lower[some][::-1], bottom)
            marks.append(f'<polygon points="{edge}" fill="{colour}" fill-opacity=".12"/>')
        marks.append(
            f'<polyline points="{_points(x, parts, bottom)}" fill="none" stroke="{colour}" '
            f'stroke-width="2"{dashes(looks, 2)}><title>{escape(one.label)}</title></polyline>'
        )
    caption = (
        "Performance profiles: the part of the runs above a normalised score, averaged over tasks. "
        "Bands: 95&nbsp;% of the two best."
    )
    return _figure("Performance profiles", HEIGHT + FOOT - 10, marks, caption)


def _points(x: normalised.Numbers, y: normalised.Numbers, bottom: float) -> str:
    heights = bottom - np.clip(y, 0, 1) * (HEIGHT - 12)
    return "".join(f"{a:.1f},{b:.1f} " for a, b in zip(x.tolist(), heights.tolist(), strict=True))


def _round(low: float, high: float) -> list[float]:
    """A few round numbers between two others."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (0.5, 1, 2, 5) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(said: str, height: float, marks: list[str], caption: str) -> str:
    drawn = picture(said, WIDTH, height, "".join(marks))
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"

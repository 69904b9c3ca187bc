"""Colours and dashes: a configuration has the same ones on the page and on paper."""

from typing import NamedTuple

# The first of each pair is for light pages, the second for dark ones. Any two colours of a page
# differ by at least 20 (CIE76) in normal vision and as seen with protanopia, deuteranopia and
# tritanopia, and each has a contrast of at least 3:1 with its page.
COLOURS = (
    ("#0b62b8", "#88b6fc"),
    ("#b32c05", "#fa7943"),
    ("#13966a", "#46d39d"),
    ("#7d2775", "#c66ebd"),
    ("#b98500", "#face4e"),
    ("#6d7886", "#aeb8c5"),
)
# Lengths of strokes and gaps in line widths. Beyond six series, colours come again with a dash.
DASHES = ((), (4, 2), (1, 1.5), (6, 1.5, 1, 1.5), (8, 3), (3, 1.5, 1, 1.5, 1, 1.5))


class Style(NamedTuple):
    """How a series is drawn.

    Attributes:
        colour: The position of its colour in `COLOURS`.
        dash: Strokes and gaps, in line widths; empty for a solid line.
    """

    colour: int
    dash: tuple[float, ...]


def style(number: int) -> Style:
    """How the series of this number is drawn; styles repeat after all pairs of colour and dash."""
    return Style(number % len(COLOURS), DASHES[number // len(COLOURS) % len(DASHES)])


def colour(number: int) -> str:
    """The colour of the series of this number on paper."""
    return COLOURS[style(number).colour][0]

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
# Lengths of strokes and gaps in line widths. The first six series have a dash of their own each, so
# that they are told apart where a page is printed in black and white.
DASHES = ((), (4, 2), (1, 1.5), (7, 1.5, 1, 1.5), (8, 2), (4, 1.5, 1, 1.5, 1, 1.5))


class Style(NamedTuple):
    """How a series is drawn.

    Attributes:
        colour: The position of its colour in `COLOURS`.
        dash: Strokes and gaps, in line widths; empty for a solid line.
    """

    colour: int
    dash: tuple[float, ...]


def style(number: int) -> Style:
    """How a series with this number is drawn.

    Colour and dash change together. After all colours the dashes move on by one, so that styles
    repeat after all pairs of the two.
    """
    turn, colour = divmod(number, len(COLOURS))
    return Style(colour, DASHES[(colour + turn) % len(DASHES)])


def colour(number: int) -> str:
    """The colour of a series with this number on paper."""
    return COLOURS[style(number).colour][0]

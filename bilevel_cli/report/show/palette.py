"""How series look: a configuration has the same colour and dash in every figure."""

from typing import NamedTuple

# For light and for dark pages. Any two differ by at least 20 (CIE76) in normal vision and as seen
# with protanopia, deuteranopia and tritanopia, and each has 3:1 contrast or more with its page.
COLOURS = (
    ("#0b62b8", "#88b6fc"),
    ("#b32c05", "#fa7943"),
    ("#13966a", "#46d39d"),
    ("#7d2775", "#c66ebd"),
    ("#b98500", "#face4e"),
    ("#6d7886", "#aeb8c5"),
)
# Lengths of strokes and gaps in line widths: beyond six series, dashes tell colours apart.
DASHES = ((), (4, 2), (1, 1.5), (6, 1.5, 1, 1.5), (8, 3), (3, 1.5, 1, 1.5, 1, 1.5))


class Style(NamedTuple):
    """Of a series.

    Attributes:
        colour: Position in `COLOURS`.
        dash: Strokes and gaps, in line widths; none where the line is solid.
    """

    colour: int
    dash: tuple[float, ...]


def style(number: int) -> Style:
    """Of the series of this number; they repeat after all pairs of colour and dash."""
    return Style(number % len(COLOURS), DASHES[number // len(COLOURS) % len(DASHES)])


def colour(number: int) -> str:
    """Of the series of this number, on paper."""
    return COLOURS[style(number).colour][0]

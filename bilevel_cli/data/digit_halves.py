"""The left and the right halves of the digits of scikit-learn."""

from dataclasses import replace

from bilevel_cli.data.base import Labelled
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.two_views import TwoViews


class DigitHalves(TwoViews):
    """Images of 8x8 (`Digits`), cut from top to bottom: `x` the left half and `y` the right one.

    Both have shape [n, 1, 8, 4].

    Args:
        train: Number of training pairs.
        validation: Number of validation pairs.
        test: Number of test pairs; all three together at most 1,797.
    """

    benchmark = True

    def read(self) -> tuple[Labelled, Labelled | None]:
        pool, official = Digits(self.train, self.validation, self.test).read()
        left, right = pool.x.chunk(2, 3)
        return replace(pool, x=left, y=right), official

"""Data whose examples are seen twice, such as an image and its caption."""

from bilevel_cli.data.base import Source


class TwoViews(Source):
    """Pairs of two views: `y` of `Labelled` is the other view, floating, of shape [n, ...].

    Args: as `Source`.
    """

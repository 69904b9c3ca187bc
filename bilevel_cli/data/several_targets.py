"""Data with several targets for each example, of which the first is the one that counts."""

from torch import Tensor

from bilevel_cli.data.base import Source


class SeveralTargets(Source):
    """Examples with K >= 2 targets: `y` of `Labelled` is floating, of shape [n, K].

    Args: as `Source`.

    Attributes:
        target_names: What people call the targets, the main one first.
        class_counts: For each target its number of classes, whose numbers are in `y`; None for one
            that is a real number.
        one_output: Whether all targets are of one quantity, so that one output predicts them all.
        truth: The weights of the true linear model of the main target, of shape [features]; None
            where nobody knows.
    """

    target_names: list[str]
    class_counts: list[int | None]
    one_output: bool = False
    truth: Tensor | None = None

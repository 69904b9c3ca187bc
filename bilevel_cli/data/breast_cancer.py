"""The breast cancer table that scikit-learn ships."""

import torch

from bilevel_cli.data.base import Labelled, Splits, TwoClasses, standardized
from bilevel_cli.data.reading import shipped


class BreastCancer(TwoClasses):
    """569 tumours, 30 features, malignant (0) or benign (1).

    `x` has shape [n, 30] (Wolberg, Mangasarian, Street, 1995, https://doi.org/10.24432/C5DW2B).
    `splits` standardises it with the mean and standard deviation of the training part; `read` does
    not.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples; all three together at most 569.
    """

    benchmark = True

    def read(self) -> tuple[Labelled, Labelled | None]:
        table = shipped.table("breast_cancer.csv", delimiter=",", header=1)
        x = table[:, :-1].to(torch.get_default_dtype())
        return Labelled(x, table[:, -1].long(), torch.arange(len(x))), None

    def splits(self, generator: torch.Generator) -> Splits:
        return standardized(super().splits(generator))

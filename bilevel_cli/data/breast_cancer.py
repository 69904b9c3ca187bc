"""The breast cancer table that scikit-learn ships."""

from dataclasses import replace

import torch
from sklearn.datasets import load_breast_cancer

from bilevel_cli.data.base import Examples, Labelled, Splits


class BreastCancer(Examples):
    """569 tumours, 30 features, malignant (0) or benign (1).

    `x` has shape [n, 30] (Wolberg, Mangasarian, Street, 1995, https://doi.org/10.24432/C5DW2B).
    `splits` standardises it with the mean and standard deviation of the training part; `read` does
    not.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples; all three together at most 569.
    """

    num_classes = 2

    def read(self) -> tuple[Labelled, Labelled | None]:
        table, labels = load_breast_cancer(return_X_y=True)
        x = torch.from_numpy(table).to(torch.get_default_dtype())
        return Labelled(x, torch.from_numpy(labels).long(), torch.arange(len(x))), None

    def splits(self, generator: torch.Generator) -> Splits:
        parts = super().splits(generator)
        std, mean = torch.std_mean(parts.train.x, dim=0, correction=0)
        std = torch.where(std > 0, std, 1)  # a feature that is constant in a small training part
        return Splits(*(replace(part, x=(part.x - mean) / std) for part in parts))

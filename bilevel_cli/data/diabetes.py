"""The diabetes table that scikit-learn ships."""

from dataclasses import replace

import torch

from bilevel_cli.data.base import Labelled, Regression, Splits, standardized
from bilevel_cli.data.reading import shipped


class Diabetes(Regression):
    """442 patients, 10 features, and the progression of their disease after one year.

    `x` has shape [n, 10] (Efron, Hastie, Johnstone, Tibshirani, 2004, arXiv:math/0406456).
    `splits` standardises inputs and target with the mean and standard deviation of the training
    part; `read` does not.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples; all three together at most 442.
    """

    benchmark = True

    def read(self) -> tuple[Labelled, Labelled | None]:
        dtype = torch.get_default_dtype()
        x = shipped.table("diabetes_data_raw.csv.gz").to(dtype)
        y = shipped.table("diabetes_target.csv.gz")[:, 0].to(dtype)
        return Labelled(x, y, torch.arange(len(x))), None

    def splits(self, generator: torch.Generator) -> Splits:
        parts = standardized(super().splits(generator))
        std, mean = torch.std_mean(parts.train.y, correction=0)
        std = torch.where(std > 0, std, 1)  # the target of a single example
        return Splits(*(replace(part, y=(part.y - mean) / std) for part in parts))

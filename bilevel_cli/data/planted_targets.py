"""Linear targets with planted weights: a noisy main one, a helpful and a harmful one."""

import math

import torch

from bilevel_cli.core import draws
from bilevel_cli.data.base import Labelled, Splits
from bilevel_cli.data.several_targets import SeveralTargets


class PlantedTargets(SeveralTargets):
    """y_k = w_k . x + noise_k e, with standard normal x and e.

    As in the regression of Shamsian et al. (2023, arXiv:2301.13501), by default: the main target is
    nearly all noise, a helpful one has the same w and twenty times less noise, and a harmful one
    has another w. One output is to predict all three. The inputs are a choice of ours.

    Rows are drawn anew by each seed, and not standardised.

    Args:
        weights: w_k, K lists of one number for each feature, the main target first.
        noise: Standard deviation of the noise of each target, K numbers >= 0.
        names: What the targets are called, K names.
        train: Number of training rows.
        validation: Number of validation rows.
        test: Number of test rows.
    """

    benchmark = True
    one_output = True

    def __init__(
        self,
        weights: list[list[float]],
        noise: list[float],
        names: list[str],
        train: int,
        validation: int,
        test: int,
    ) -> None:
        super().__init__(train, validation, test)
        if len(weights) < 2 or not len(weights) == len(noise) == len(names):
            raise ValueError(
                "PlantedTargets needs weights, noise and names of two or more targets, got "
                f"{len(weights)}, {len(noise)} and {len(names)}. Set data.weights, data.noise and "
                "data.names."
            )
        if not weights[0] or len({len(row) for row in weights}) > 1:
            raise ValueError(
                "PlantedTargets needs as many weights of each target as there are features, got "
                f"{', '.join(str(len(row)) for row in weights)}. Set data.weights."
            )
        if not all(0 <= size < math.inf for size in noise):
            raise ValueError(
                f"PlantedTargets needs finite noise >= 0, got noise={list(noise)}. Set data.noise."
            )
        self.weights = torch.tensor([list(row) for row in weights], dtype=torch.float64)
        self.noise = torch.tensor(list(noise), dtype=torch.float64)
        self.target_names, self.class_counts = list(map(str, names)), [None] * len(names)
        self.truth = self.weights[0]
        self.sizes = train, validation, test

    def read(self) -> tuple[Labelled, Labelled | None]:
        return self._drawn(torch.Generator().manual_seed(0)), None

    def splits(self, generator: torch.Generator) -> Splits:
        return self.cut(self._drawn(generator), None, generator)

    def _drawn(self, generator: torch.Generator) -> Labelled:
        count, (targets, features) = sum(self.sizes), self.weights.shape
        x = draws.normal(count, features, generator=generator)
        e = draws.normal(count, targets, generator=generator)
        y = x @ self.weights.to(x).T + self.noise.to(x) * e
        return Labelled(x, y, torch.arange(count))

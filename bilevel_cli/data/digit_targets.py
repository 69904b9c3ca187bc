"""The digits of scikit-learn with four targets: the digit, two of its properties, and noise."""

from dataclasses import replace

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.data.base import Labelled, Splits
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.several_targets import SeveralTargets

CURVED = (0, 2, 3, 5, 6, 8, 9)  # 1, 4 and 7 are written with straight strokes


class DigitTargets(SeveralTargets):
    """Images of 8x8 (`Digits`) whose main target, the digit, is often wrong in training.

    `parity` and `curved`, both of two classes, are always right and tell something of the digit;
    `random` is one of ten classes, drawn at random, and tells nothing.

    Args:
        noise: Share of training examples whose digit is replaced by another one, in [0, 1].
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples; all three together at most 1,797.
    """

    benchmark = True

    def __init__(self, noise: float, train: int, validation: int, test: int) -> None:
        if not 0 <= noise <= 1:
            raise ValueError(
                f"DigitTargets needs noise from 0 to 1, got noise={noise}. Set data.noise."
            )
        super().__init__(train, validation, test)
        self.noise, self.digits = noise, Digits(train, validation, test)
        self.target_names = ["digit", "parity", "curved", "random"]
        self.class_counts: list[int | None] = [10, 2, 2, 10]

    def read(self) -> tuple[Labelled, Labelled | None]:
        pool, _ = self.digits.read()
        return _with_targets(pool, torch.Generator().manual_seed(0)), None

    def splits(self, generator: torch.Generator) -> Splits:
        pool, _ = self.digits.read()
        parts = self.cut(_with_targets(pool, generator), None, generator)
        return parts._replace(train=self._noisy(parts.train, generator))

    def _noisy(self, part: Labelled, generator: torch.Generator) -> Labelled:
        digit = part.y[:, 0]
        wrong = draws.uniform(len(digit), generator=generator) < self.noise
        away = torch.randint(1, 10, (len(digit),), generator=generator)
        y = part.y.clone()
        y[:, 0] = torch.where(wrong, (digit + away) % 10, digit)
        return replace(part, y=y)


def _with_targets(pool: Labelled, generator: torch.Generator) -> Labelled:
    digit: Tensor = pool.y
    curved = torch.isin(digit, torch.tensor(CURVED))
    random = torch.randint(10, (len(digit),), generator=generator)
    y = torch.stack([digit, digit % 2, curved.long(), random], 1)
    return replace(pool, y=y.to(torch.get_default_dtype()))

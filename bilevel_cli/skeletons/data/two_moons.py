"""Points on two half circles that reach into each other."""

import math

import torch
from torch import Tensor

from bilevel_cli import Examples, Labelled


class TwoMoons(Examples):
    """Two classes of points of the plane, which no line separates.

    Args:
        points: Points of each class.
        noise: Standard deviation of the noise of both coordinates, >= 0.
        train: Number of training examples, or null.
        validation: Number of validation examples, or null.
        test: Number of test examples, or null. Nulls share what the others leave, as 60 : 20 : 20.
    """

    num_classes = 2

    def __init__(
        self, points: int, noise: float, train: int | None, validation: int | None, test: int | None
    ) -> None:
        super().__init__(train, validation, test)
        if points < 2:
            raise ValueError(f"TwoMoons needs points >= 2, got {points}. Set data.points.")
        self.points, self.noise = points, noise

    def read(self) -> tuple[Labelled, Labelled | None]:
        # Your data go here. Files are read here and not in the constructor:
        #     file = np.load(self.path)
        #     x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
        x, y = self.moons()
        # Floating inputs [n, ...], int64 labels [n] from 0 to num_classes - 1, and the number of
        # each example in its source. None: there is no official test set.
        return Labelled(x, y, torch.arange(len(y))), None

    def moons(self) -> tuple[Tensor, Tensor]:
        """The points, of shape [2 * points, 2], and their classes."""
        generator = torch.Generator().manual_seed(0)  # the same data whatever the seed of the run
        angle = math.pi * torch.rand(self.points, generator=generator)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
        x = torch.cat([upper, lower])
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        return x, torch.arange(2).repeat_interleave(self.points)

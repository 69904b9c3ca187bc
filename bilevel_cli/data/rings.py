"""Points of the plane on concentric rings."""

import math

import torch

from bilevel_cli.core import draws
from bilevel_cli.data.base import Examples, Labelled


class Rings(Examples):
    """Class c is a circle of radius c + 1 around 0: data one can look at.

    No line separates a class from the others, and no single point of a class says where its ring
    ends. So the decision boundary shows what a classifier knows. A point has a uniform angle, and
    normal noise on its radius. All points are drawn by one seed, whatever the seed of the run.

    Args:
        classes: Number of rings.
        points: Points of each, from which the parts are drawn.
        noise: Standard deviation of the radius, >= 0.
        train: Number of training examples, or null.
        validation: Number of validation examples, or null.
        test: Number of test examples, or null.
    """

    benchmark = True

    def __init__(
        self,
        classes: int,
        points: int,
        noise: float,
        train: int | None,
        validation: int | None,
        test: int | None,
    ) -> None:
        super().__init__(train, validation, test)
        if classes < 2 or points < 1:
            raise ValueError(
                "Rings needs classes >= 2 and points >= 1, got "
                f"classes={classes}, points={points}. Set data.classes or data.points."
            )
        if not 0 <= noise < math.inf:
            raise ValueError(f"Rings needs a finite noise >= 0, got noise={noise}. Set data.noise.")
        self.num_classes, self.points, self.noise = classes, points, noise

    def read(self) -> tuple[Labelled, Labelled | None]:
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(self.num_classes).repeat_interleave(self.points)
        turn = draws.uniform(len(y), generator=generator)
        noise = draws.normal(len(y), generator=generator)
        radius, angle = 1 + y + self.noise * noise, 2 * math.pi * turn
        x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return Labelled(x, y, torch.arange(len(y))), None

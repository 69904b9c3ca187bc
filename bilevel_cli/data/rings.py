"""Points of the plane on concentric rings."""

import math

import torch

from bilevel_cli.core import draws
from bilevel_cli.data.base import Examples, Labelled


class Rings(Examples):
    """Ring c of the circles with radii 1, 2, ... is class c: data one can look at.

    No line tells one class from the others, and no point per class says where a ring ends, so what
    a classifier knows of them is drawn by its decision boundary. A point has a uniform angle, and
    its radius normal noise; one seed draws all, whatever that of the run.

    Args:
        classes: Number of rings.
        points: Points of each, from which the parts are drawn.
        noise: Standard deviation of the radius, >= 0.
        train: Number of training examples, or null.
        validation: Number of validation examples, or null.
        test: Number of test examples, or null.
    """

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

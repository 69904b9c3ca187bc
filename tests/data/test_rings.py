"""Rings are drawn with the radii and the noise that they are asked for."""

import math
from typing import Any

import pytest
import torch
from problems import seeded

from bilevel_cli.data.rings import Rings


def test_rings_have_the_radii_of_their_classes() -> None:
    parts = Rings(3, 400, 0.1, 600, 300, 300).splits(seeded(0))
    radius = torch.cat([part.x for part in parts]).norm(dim=1)
    label = torch.cat([part.y for part in parts])
    for number in range(3):
        ring = radius[label == number]
        assert len(ring) == 400
        # Within four standard errors of the mean and of the standard deviation.
        assert ring.mean() == pytest.approx(number + 1, abs=4 * 0.1 / 20)
        assert ring.std() == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(2 * 400))
    shares: dict[str, Any] = {"train": None, "validation": None, "test": None}
    for settings in ({"classes": 1}, {"points": 0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match=f"Rings needs .*{next(iter(settings))}"):
            Rings(**{"classes": 3, "points": 9, "noise": 0.1, **shares, **settings})

"""The regression table of scikit-learn is standardised by its training part."""

import torch
from data_files import extremes
from problems import seeded

from bilevel_cli.data.diabetes import Diabetes


def test_diabetes_has_real_targets_standardised_by_its_training_part_alone() -> None:
    data = Diabetes(150, 150, 142)
    pool, official = data.read()
    assert official is None
    assert pool.x.shape == (442, 10)
    # Published range and mean of the progression: 25 to 346, and 152.1.
    assert extremes(pool.y) == (25, 346)
    assert abs(pool.y.mean().item() - 152.13) < 0.01
    assert pool.y.dtype == torch.get_default_dtype()
    parts = data.splits(seeded(0))
    raw = pool.take(parts.train.index)
    for values in (parts.train.x, parts.train.y[:, None]):
        mean, std = values.mean(0), values.std(0, correction=0)
        # A mean of 150 numbers of order one is exact to some hundred roundings.
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-13, rtol=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-13, rtol=0)
    test = pool.take(parts.test.index)
    torch.testing.assert_close(parts.test.y, (test.y - raw.y.mean()) / raw.y.std(correction=0))
    assert all(part.y.isfinite().all() for part in Diabetes(1, 1, 1).splits(seeded(0)))

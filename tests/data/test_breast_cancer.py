"""The table of tumours of scikit-learn is standardised by its training part."""

import torch
from problems import seeded

from bilevel_cli.data.breast_cancer import BreastCancer


def test_breast_cancer_is_standardised_by_its_training_part_alone() -> None:
    data = BreastCancer(200, 150, 219)
    pool, _ = data.read()
    assert pool.x.shape == (569, 30)
    assert pool.y.bincount().tolist() == [212, 357]  # malignant, benign
    parts = data.splits(seeded(0))
    # A mean of 200 numbers of order one is exact to some hundred roundings.
    tolerance = 200 * torch.finfo(parts.train.x.dtype).eps
    raw = pool.x[parts.train.index]
    torch.testing.assert_close(parts.train.x.mean(0), torch.zeros(30), atol=tolerance, rtol=0)
    torch.testing.assert_close(
        parts.train.x.std(0, correction=0), torch.ones(30), atol=tolerance, rtol=0
    )
    torch.testing.assert_close(
        parts.test.x, (pool.x[parts.test.index] - raw.mean(0)) / raw.std(0, correction=0)
    )


def test_a_feature_that_does_not_vary_in_the_training_part_stays_finite() -> None:
    assert all(part.x.isfinite().all() for part in BreastCancer(1, 1, 1).splits(seeded(0)))

"""One opinion from several classifiers."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 500  # each is a product of [classifiers, n] numbers, and the likelihood never falls


def pooled(
    opinions: Mapping[str, NDArray[np.float64]], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """The linear opinion pool, sum_m v_m p_m, whose weights v maximise the likelihood of labels.

    A label is drawn by one of the classifiers or uniformly from the C classes, each with a
    probability that EM finds; v are those of the classifiers, scaled to the sum 1. Without the
    uniform one, a classifier that is seldom sure would win by the wrong labels alone. The
    likelihood is concave in the probabilities.

    Args:
        opinions: By the names of classifiers, what each expects of rows that it has not seen, of
            shape [n, C].
        labels: From 0 to C - 1, of shape [n].

    Returns:
        The pool, of shape [n, C], and v by the same names.
    """
    rows, classes = np.arange(len(labels)), next(iter(opinions.values())).shape[1]
    drawn = [opinion[rows, labels] for opinion in opinions.values()]
    likelihoods = np.stack([*drawn, np.full(len(labels), 1 / classes)])
    share = np.full(len(likelihoods), 1 / len(likelihoods))
    for _ in range(ITERATIONS):
        share = share * (likelihoods / (share @ likelihoods)).mean(1)
    weights = share[:-1] / share[:-1].sum()
    pool = sum(weight * opinion for weight, opinion in zip(weights, opinions.values(), strict=True))
    return np.asarray(pool), dict(zip(opinions, map(float, weights), strict=True))

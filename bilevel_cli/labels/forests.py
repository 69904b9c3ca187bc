"""What ensembles of trees expect of the labels of rows that they have not seen."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier


def boosted_trees(seed: int) -> Any:
    """With the settings of scikit-learn, which fit where labels are mostly right."""
    return HistGradientBoostingClassifier(random_state=seed)


def slow_boosted_trees(seed: int) -> Any:
    """Smaller steps and trees: a third of the leaves, so that single wrong labels say less."""
    return HistGradientBoostingClassifier(
        learning_rate=0.05, max_leaf_nodes=8, l2_regularization=1.0, random_state=seed
    )


def random_forest(seed: int) -> Any:
    """Leaves of five rows or more, for the same reason."""
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return RandomForestClassifier(150, min_samples_leaf=5, random_state=seed, n_jobs=jobs)


KINDS: dict[str, Callable[[int], Any]] = {
    "boosted trees": boosted_trees,
    "slow boosted trees": slow_boosted_trees,
    "random forest": random_forest,
}


def out_of_fold(
    make: Callable[[int], Any],
    x: NDArray[np.float64],
    labels: NDArray[np.int64],
    fold: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """The probabilities of the classes by trees that were grown on the other folds, [n, C].

    Args:
        make: A function of the seed that makes a classifier.
        x: Features, of shape [n, features].
        labels: From 0 to C - 1, of shape [n].
        fold: The fold of each row, of shape [n].
        seed: Of the trees.
    """
    found = np.zeros((len(labels), labels.max() + 1))
    for one in np.unique(fold):
        own = fold == one
        trees = make(seed).fit(x[~own], labels[~own])
        # A class may have all its rows in this fold.
        found[np.ix_(own, trees.classes_)] = trees.predict_proba(x[own])
    return found

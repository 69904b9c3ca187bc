"""DD-Ranking: how much of an accuracy is in the distilled images, and how much around them.

Li et al., 2025, arXiv:2505.13300. Formulas and weights were checked against the README and
`ddranking/metrics/aug_robust.py` of the authors' repository, NUS-HPC-AI-Lab/DD-Ranking.
"""

import math

WEIGHT = 0.5  # of both scores, as published


def label_robust_score(recovery: float, improvement: float, weight: float) -> float:
    """LRS = (e^a - e^-1) / (e - e^-1), a = weight * improvement - (1 - weight) * recovery.

    From 0 to 1. A set that is as good as all real examples under hard labels, and gains nothing
    over random ones, has a = 0 and 0.27.

    Args:
        recovery: Hard label recovery, HLR: accuracy of all real examples minus that of the
            distilled images, both with hard labels. Accuracies are from 0 to 1.
        improvement: Improvement over random, IOR: accuracy of the distilled set minus that of as
            many random real images, both with the labels and the training of the method.
        weight: In [0, 1].
    """
    return _normalised(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(augmented: float, plain: float, weight: float) -> float:
    """ARS = (e^b - e^-1) / (e - e^-1), b = weight * augmented + (1 - weight) * plain.

    Args:
        augmented: Improvement over random where both sets are augmented in training.
        plain: The same where neither is.
        weight: In [0, 1].
    """
    return _normalised(weight * augmented + (1 - weight) * plain)


def _normalised(gain: float) -> float:
    return (math.exp(gain) - math.exp(-1)) / (math.e - math.exp(-1))

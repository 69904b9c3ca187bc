"""Classes with so few examples that nobody can judge their labels.

A classifier that has not learned a class finds all its labels improbable. Their weights would be
low for that reason alone, and would head the list of suspects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

USUAL_FOLDS = 10  # of more folds, each is small: ten examples of a class are enough to learn from
MOST_NAMES = 10  # that a sentence lists


class RareClasses(NamedTuple):
    """What is known of the classes.

    Attributes:
        rare: Which classes are too rare, boolean, of shape [C].
        counts: Their numbers of training examples, of shape [C].
        why: What the rare ones lack, in a sentence.
    """

    rare: Tensor
    counts: Tensor
    why: str

    def statement(self, names: Sequence[str]) -> str:
        """Names the rare classes and says what follows; empty where there is none.

        Args:
            names: Of all classes.
        """
        found = [
            f"{name!r} ({count})"
            for name, count, rare in zip(
                names, self.counts.tolist(), self.rare.tolist(), strict=True
            )
            if rare
        ]
        if not found:
            return ""
        more = len(found) - MOST_NAMES
        listed = ", ".join(found[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        return (
            f"Rare classes, with their numbers of examples: {listed}. {self.why} So their labels "
            "are not judged: they stand last in weights.csv, without a weight."
        )


def none(num_classes: int, device: torch.device) -> RareClasses:
    """Of a source in which every label is judged."""
    zeros = torch.zeros(num_classes, dtype=torch.long, device=device)
    return RareClasses(zeros > 0, zeros, "")


def of_folds(labels: Tensor, num_classes: int, folds: int) -> RareClasses:
    """The classes with fewer examples than folds, and than `USUAL_FOLDS` where there are more.

    Args:
        labels: Of all examples, int64, of shape [n].
        num_classes: C.
        folds: Number of folds.

    Raises:
        ValueError: Fewer than two classes are left to judge.
    """
    counts = labels.bincount(minlength=num_classes)
    least = min(folds, USUAL_FOLDS)
    if (counts >= least).sum() < 2:
        raise ValueError(
            f"HyperCleaning needs two classes of at least {least} examples to cross-fit "
            f"folds={folds}, got at most {int(counts.topk(2).values[1])} of the second. Lower "
            "task.folds, or merge classes."
        )
    rare = (counts > 0) & (counts < least)
    return RareClasses(rare, counts, f"They have fewer than {least}, too few to learn them from.")


def unseen(labels: Tensor, validation: Tensor, num_classes: int) -> RareClasses:
    """The classes of training examples of which no validation example is one.

    Args:
        labels: Of training examples, int64, of shape [n].
        validation: Of validation examples, int64, of shape [m].
        num_classes: C.
    """
    counts, judges = (y.bincount(minlength=num_classes) for y in (labels, validation))
    rare = (counts > 0) & (judges == 0)
    return RareClasses(rare, counts, "None of these is for validation, where labels are judged.")

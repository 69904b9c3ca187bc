"""A distilled set with real images added: whether either of them hurts the other."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.contest import Contest, announced
from bilevel_cli.tasks.distillation.retraining import TrainingSet
from bilevel_cli.tasks.distillation.selection import RandomReal


def check_real(contest: Contest, counts: Sequence[int]) -> None:
    """Refuses numbers of real images that the training examples do not have.

    Raises:
        ValueError: There are fewer examples of some class.
    """
    fewest = int(contest.train.y.bincount().min())
    if not 0 <= min(counts) <= max(counts) <= fewest:
        raise ValueError(
            f"Mixing needs from 0 to {fewest} real images of a class, as many as the rarest has, "
            f"got {','.join(map(str, counts))}. Raise data.train, or lower --mixed."
        )


def mix(contest: Contest, models: Mapping[str, Functional], counts: Sequence[int]) -> pd.DataFrame:
    """Test accuracies with r random real images of a class, beside the distilled set and alone.

    Yang et al., 2024, arXiv:2406.04284: real images beside distilled ones can hurt. They hurt where
    `mixed_accuracy` is below that of r = 0; the distilled ones hurt where it is below
    `real_accuracy`. Every network has real images of its own, those of a smaller r among those of a
    larger one; networks share starts. All take the same number of steps, and batches of one size.

    Args:
        contest: With the distilled set.
        models: The architectures, by name.
        counts: The values of r, as `check_real` takes them.

    Returns:
        Columns real (r), model, mixed_accuracy, mixed_std, real_accuracy, real_std (over networks,
        not corrected; empty for r = 0) and seeds.
    """
    how, rows = contest.retraining, []
    for name, real in announced([(name, real) for name in models for real in counts]):
        alone = contest.chosen(RandomReal(), real) if real else []
        mixed = [_joined(contest.distilled, one) for one in alone]
        mixed = mixed or [contest.distilled] * how.networks
        found = {"mixed": contest.accuracies(models[name], mixed, how)}
        found["real"] = found["mixed"] * math.nan
        if real:
            found["real"] = contest.accuracies(models[name], alone, how)
        row = {"real": real, "model": name}
        for kind, accuracies in found.items():
            row[f"{kind}_accuracy"] = float(accuracies.mean())
            row[f"{kind}_std"] = float(accuracies.std(correction=0))
        rows.append(row | {"seeds": how.networks})
    return pd.DataFrame(rows)


def _joined(one: TrainingSet, other: TrainingSet) -> TrainingSet:
    images, labels = (torch.cat(parts) for parts in zip(one, other, strict=True))
    return images, labels

"""How good a labeling is: against labels that are known, and where none are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel_cli.core import dense

# Of the probe, relative to the mean square of a feature: solvable where features depend on another.
RIDGE = 1e-3


def one_hot(labels: Tensor, count: int) -> Tensor:
    """One-hot labels in torch's default type, of shape [n, count]."""
    classes = torch.arange(count, device=labels.device)
    return (labels[:, None] == classes).to(torch.get_default_dtype())


def matched(clusters: Tensor, labels: Tensor, sizes: tuple[int, int]) -> Tensor:
    """The class that stands for each cluster: one to one, with the largest agreement of all.

    Found by the Hungarian method. Of more clusters than classes, those left over have class -1.

    Args:
        clusters: Of the examples, int64, of shape [n].
        labels: Of the same examples, int64, of shape [n].
        sizes: The numbers of clusters and of classes.

    Returns:
        int64, of shape [number of clusters], on the device of the labels.
    """
    from scipy.optimize import linear_sum_assignment  # here: a run does not wait for it

    both = one_hot(clusters, sizes[0]).T @ one_hot(labels, sizes[1])
    rows, columns = linear_sum_assignment(both.cpu().numpy(), maximize=True)
    found = torch.full((sizes[0],), -1)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found.to(labels.device)


def cluster_accuracy(clusters: Tensor, labels: Tensor, sizes: tuple[int, int]) -> Tensor:
    """The share of examples whose cluster is matched to their class, 0-dim. Args: as `matched`."""
    right = matched(clusters, labels, sizes)[clusters] == labels
    return right.to(torch.get_default_dtype()).mean()


def probe_accuracy(spaces: Sequence[Tensor], labels: Tensor, count: int, folds: int) -> Tensor:
    """How often a linear probe finds the label of an example that it was not fitted on, 0-dim.

    The mean over representations and folds. The probe is a ridge regression on one-hot labels, of
    features and a constant: a closed form. TURTLE's score of a labeling that needs no true label is
    of this kind (Gadetsky et al., 2024, arXiv:2406.07236: "generalization score"). One cluster for
    all examples has the score 1.

    Args:
        spaces: The examples in each representation, of shapes [n, features].
        labels: Of the examples, int64, of shape [n].
        count: The number of clusters.
        folds: From 2 to n. Examples are dealt out in a random order, the same at every call.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fold = (order % folds).to(labels.device)
    targets, found = one_hot(labels, count), []
    for x in spaces:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        ridge = RIDGE * x.square().mean() * len(x)
        for number in range(folds):
            seen = (fold != number).to(x.dtype)[:, None]
            weights = _ridge_regression(seen * x, seen * targets, ridge)
            right = ((x @ weights).argmax(1) == labels).to(x.dtype)
            found.append((right * (1 - seen[:, 0])).sum() / (1 - seen).sum())
    return torch.stack(found).mean()


def _ridge_regression(x: Tensor, y: Tensor, ridge: Tensor) -> Tensor:
    """(x'x + ridge)^-1 x'y, by whichever of the two systems is smaller; x is [n, d], y [n, k]."""
    wide = x.shape[1] > len(x)
    gram = x @ x.T if wide else x.T @ x
    gram = gram + ridge * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    return x.T @ dense.solve(gram, y) if wide else dense.solve(gram, x.T @ y)

"""K-means on the device, in a fixed number of rounds."""

import torch
from torch import Tensor


def nearest_to_centres(points: Tensor, count: int, rounds: int) -> Tensor:
    """The point nearest to the centre of each cluster, of several sets of points at once.

    Lloyd's algorithm (1982): each point goes to its nearest centre, then each centre to the mean of
    its points; a centre without a point stays. It begins at the first `count` points, and no tensor
    decides when it ends. One point may be the nearest to two centres.

    Args:
        points: Of shape [sets, m, d], in random order, m >= count.
        count: Clusters of each set.
        rounds: Of the algorithm; with 0, the centres are the first points.

    Returns:
        Their numbers, int64, of shape [sets, count].
    """
    points = points - points.mean(1, keepdim=True)  # rounds less, and moves no cluster
    centres = points[:, :count]
    numbers = torch.arange(count, device=points.device)
    for _ in range(rounds):
        nearest = _squared_distances(points, centres).argmin(2)
        # A product with zeros and ones: sums at an index do not repeat themselves on a GPU.
        member = (nearest[..., None] == numbers).to(points)
        sizes = member.sum(1)[..., None]
        means = member.mT @ points / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
    return _squared_distances(points, centres).argmin(1)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Of shape [sets, m, count]."""
    ours, theirs = points.square().sum(2)[..., None], centres.square().sum(2)[:, None]
    return ours - 2 * points @ centres.mT + theirs

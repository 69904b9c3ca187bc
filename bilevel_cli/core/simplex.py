"""The probability simplex, over which outer parameters that share out a whole are learned."""

from itertools import accumulate

import torch
from torch import Tensor

from bilevel_cli.core.host import is_host


def onto_simplex(rows: Tensor) -> Tensor:
    """The nearest probability vectors (Held, Wolfe, Crowder, 1974), by sorting.

    Args:
        rows: Of shape [n, classes].
    """
    ordered = rows.sort(1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    shifts = (_running_sums(ordered) - 1) / counts
    kept = (ordered > shifts).sum(1, keepdim=True)  # the largest entries: those that stay above 0
    return (rows - shifts.gather(1, kept - 1)).clamp(min=0)


def _running_sums(rows: Tensor) -> Tensor:
    """rows.cumsum(1), which torch refuses on a GPU that is told to repeat itself."""
    if is_host(rows.device):
        return rows.cumsum(1)
    return torch.stack(list(accumulate(rows.unbind(1))), 1)

"""Recursive momentum: a running estimate that is corrected at the point before."""

import torch
from torch import Tensor

from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.trees import Params


def old_weight(momentum: PowerLaw, count: Tensor) -> Tensor:
    """1 - momentum(k), and 0 at k = 0, where nothing is remembered yet. 0-dim."""
    return torch.where(count > 0, 1.0 - momentum(count), 0.0)


def check_weight(who: str, momentum: PowerLaw) -> None:
    """Raises ValueError where the weight of a new gradient exceeds one."""
    if momentum.initial > 1:
        raise ValueError(
            f"{who} needs a momentum weight <= 1, got momentum.initial={momentum.initial}. "
            "Set method.momentum.initial, e.g. 0.5."
        )


def recursive(here: Params, there: Params, direction: Params, weight: Tensor) -> Params:
    """here + weight * (direction - there): STORM (Cutkosky & Orabona, 2019, arXiv:1905.10018).

    Args:
        here: A gradient at the present point.
        there: The gradient at the previous point, on the same minibatch.
        direction: What this function returned at the previous point.
        weight: The weight of what is remembered, 0-dim.
    """
    return {n: value + weight * (direction[n] - there[n]) for n, value in here.items()}

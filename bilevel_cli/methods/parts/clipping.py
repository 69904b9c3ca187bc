"""Implicit parts of a hypergradient, no longer than the direct ones."""

import torch
from torch import Tensor

from bilevel_cli.core.trees import Params

CLIPS = (None, "direct")


def check_clip(who: str, clip: str | None) -> None:
    """Refuses a name that is not one of `CLIPS`."""
    if clip not in CLIPS:
        raise ValueError(
            f"{who} needs clip to be null or direct, got clip={clip}. Set method.clip."
        )


def clipped(implicit: Params, direct: Params) -> tuple[Params, dict[str, Tensor]]:
    """Scales each part of `implicit` so that its norm is at most that of the same part of `direct`.

        implicit[n] * min(1, |direct[n]| / |implicit[n]|)

    A part without a direct one becomes zero (Loo et al., 2023, arXiv:2302.06755).

    Args:
        implicit: What acts through the inner solution, of the shapes of the outer parameters.
        direct: d_lambda F, of the same shapes.

    Returns:
        The scaled parts; and `implicit_clipped`, the share of outer parameters, by name, that were
        scaled, with `implicit_scale`, the smallest factor: 1 where none was.
    """
    factors = {name: _factor(implicit[name].norm(), direct[name].norm()) for name in implicit}
    every = torch.stack(list(factors.values()))
    metrics = {
        "implicit_clipped": (every < 1).to(every.dtype).mean(),
        "implicit_scale": every.min(),
    }
    return {name: factors[name] * part for name, part in implicit.items()}, metrics


def _factor(length: Tensor, most: Tensor) -> Tensor:
    longer = length > most
    # A length of zero is never longer; that of NaN is neither, and NaN stays what it is.
    return torch.where(longer, most / torch.where(longer, length, 1.0), 1.0)

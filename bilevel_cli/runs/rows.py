"""The rows that a run reports: brought to the host, written, and copied to loggers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel_cli.records.table import Row


def read(values: dict[str, Any]) -> Row:
    """Brings 0-dim tensors to the host, those of a GPU in one transfer.

    Args:
        values: 0-dim tensors and numbers, by the names of their columns.
    """
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    away = {name: value.double() for name, value in tensors.items() if not value.is_cpu}
    if away:
        fetched = torch.stack(list(away.values())).cpu()
        away = dict(zip(away, fetched, strict=True))
    found = {n: _shortest(away.get(n, v).item(), v.dtype) for n, v in tensors.items()}
    return {n: found[n] if isinstance(value, Tensor) else value for n, value in values.items()}


def shown(row: Row, scores: Row) -> str:
    """The loss, the gradient and the task's first score, for the progress bar."""
    first = dict(list(scores.items())[:1])
    values = {"loss": row["outer_loss"], "grad": row["grad_norm"], **first}
    return ", ".join(f"{name}={value:.4g}" for name, value in values.items())


def _shortest(number: float, dtype: torch.dtype) -> float | int:
    """The number whose decimal form is the shortest that identifies it in its own precision."""
    if not dtype.is_floating_point:
        return int(number)
    return float(str(np.float32(number))) if dtype == torch.float32 else number

"""Checkpoints: one file, replaced atomically, of plain tensors and numbers."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state`, so that a reader sees the old file or the new one and nothing between.

    Args:
        path: The file.
        state: Nested dicts and lists of tensors, numbers, strings and None.
    """
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(_compact(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, its tensors to the CPU. Never executes what it reads.

    Raises:
        ValueError: The file is not a whole checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}.")
    except Exception as error:  # torch documents no closed list for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"A run that continues needs a whole checkpoint, got {path}, which cannot be read: "
            f"{reason} Remove the file to start over."
        ) from error
    return state


def to_device(tree: Any, device: torch.device) -> Any:
    """`tree` with its tensors on `device`."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: to_device(value, device) for key, value in tree.items()}
    return tree


def _compact(tree: Any) -> Any:
    # torch.save writes the whole storage behind a view; a clone has only what it shows.
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, dict):
        return {key: _compact(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_compact(value) for value in tree]
    return tree

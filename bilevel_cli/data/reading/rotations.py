"""Rotations as classes of their own."""

import torch
from torch import Tensor


def rotated_classes(images: Tensor) -> Tensor:
    """Every class under 0, 90, 180 and 270 degrees (Santoro et al., 2016, arXiv:1605.06065).

    Args:
        images: Shape [classes, images, channels, side, side].

    Returns:
        Shape [4 * classes, images, channels, side, side]; rotation r of class c is r * classes + c.
    """
    return torch.cat([images.rot90(quarters, (-2, -1)) for quarters in range(4)])

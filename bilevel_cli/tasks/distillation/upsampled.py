"""Several smaller images in the memory of one, as IDC stores them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.trees import Params
from bilevel_cli.tasks.distillation.parametrization import Parametrization


@dataclass(frozen=True)
class Upsampled(Parametrization):
    """A stored image is a mosaic of factor x factor smaller ones, each enlarged for training (IDC,
    Kim et al., 2022, arXiv:2205.14959).

    Enlarging is bilinear, and so linear in what is stored. The smaller images begin as real ones,
    each pixel the mean of factor x factor pixels.

    Args:
        factor: By how much each side is enlarged; it divides both sides of an image. 1 is Pixels.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"Upsampled needs factor >= 1, got factor={self.factor}.")

    def images_of_one(self, shape: tuple[int, ...]) -> int:
        return self.factor**2

    def begin(self, images: Tensor, generator: torch.Generator) -> Params:
        del generator
        sides, f = images.shape[2:], self.factor
        if len(sides) != 2 or any(side % f for side in sides):
            raise ValueError(
                f"Upsampled needs images whose sides are multiples of factor={f}, got examples of "
                f"shape {list(images.shape[1:])}. Choose another task.parametrization.factor."
            )
        channels, (height, width) = images.shape[1], (side // f for side in sides)
        small = images.reshape(-1, channels, height, f, width, f).mean((3, 5))
        parts = small.reshape(-1, f, f, channels, height, width)  # a mosaic's rows and columns
        return {"images": parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, *sides)}

    def images(self, outer: Params) -> Tensor:
        stored, f = outer["images"], self.factor
        channels, height, width = stored.shape[1], *(side // f for side in stored.shape[2:])
        parts = stored.reshape(-1, channels, f, height, f, width)
        small = parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height, width)
        return enlarging(height, f, small) @ small @ enlarging(width, f, small).mT

    def entries(self, outer: Params, in_units: Callable[[Tensor], Tensor]) -> Params:
        """`bytes`, and `stored`, the mosaics."""
        return super().entries(outer, in_units) | {"stored": in_units(outer["images"])}


def enlarging(size: int, factor: int, like: Tensor) -> Tensor:
    """The matrix [size * factor, size] that interpolates between the centres of pixels.

    Outside the outermost centres it continues the outermost values.
    """
    # A matrix, because torch's interpolate has no derivative of its derivative under a map.
    centres = torch.arange(size, dtype=like.dtype, device=like.device)
    finer = torch.arange(size * factor, dtype=like.dtype, device=like.device)
    position = ((finer + 0.5) / factor - 0.5).clamp(0, size - 1)
    return (1 - (position[:, None] - centres).abs()).clamp(min=0)

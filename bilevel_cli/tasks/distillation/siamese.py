"""Augmentation that treats two sets of images alike, and through which derivatives flow."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.core.trees import Params

NUMBERS = 5


@dataclass(frozen=True)
class Siamese:
    """Differentiable siamese augmentation (DSA, Zhao & Bilen, 2021, arXiv:2102.08259).

    A draw of random numbers chooses one of the transforms that are switched on, and its amount. A
    real and a learned image that are augmented with the same numbers undergo the same transform.
    Pixels from outside are 0, the mean of normalised images.

    It is a function of its arguments alone, and linear in the images. So it can be mapped, and
    differentiated as often as one likes; torch's grid_sample has one derivative.

    Args:
        color: Whether to change brightness, saturation and contrast (by up to 0.5; 0 to 2 times;
            0.5 to 1.5 times).
        crop: Largest shift, as a share of the side; 0 for none.
        cutout: Side of the square that is erased, as a share of the side; 0 for none.
        flip: Whether to mirror left and right, half of the times. Not for digits.
        scale: Largest ratio by which height and width are stretched, each; 1 for none.
        rotate: Largest angle, in degrees; 0 for none.
    """

    color: bool
    crop: float
    cutout: float
    flip: bool
    scale: float
    rotate: float

    def __post_init__(self) -> None:
        least = {"crop": 0, "cutout": 0, "scale": 1, "rotate": 0}
        for name, bound in least.items():
            amount = getattr(self, name)
            if not bound <= amount < math.inf:
                raise ValueError(f"Siamese needs a finite {name} >= {bound}, got {name}={amount}.")
        if not self._on:
            raise ValueError(
                "Siamese needs a transform that is switched on, got none. Raise one of crop, "
                "cutout, scale and rotate, or augment with nothing: null."
            )

    @property
    def _on(self) -> list[str]:
        off = {"scale": 1}
        return [name for name, value in vars(self).items() if value != off.get(name, 0)]

    def draw(self, count: int, generator: torch.Generator) -> Params:
        """The random numbers for `count` images, or for as many sets of images.

        Args:
            count: How many.
            generator: On the device of the result.
        """
        return {"uniform": draws.uniform(count, NUMBERS, generator=generator)}

    def __call__(self, images: Tensor, numbers: Params) -> Tensor:
        """The images transformed.

        Args:
            images: Of shape [n, channels, height, width].
            numbers: From `draw`, for n images each, or for one and so for all alike.
        """
        x, (height, width) = images, images.shape[2:]
        uniform = numbers["uniform"].to(x.dtype)[..., None, None, None]
        choice, *amounts = uniform.unbind(1)  # each of shape [n or 1, 1, 1, 1]
        signed = [2 * amount - 1 for amount in amounts]

        def chosen(name: str, value: Tensor, neutral: float) -> Tensor:
            at = self._on.index(name) if name in self._on else -1
            return torch.where((choice * len(self._on)).long() == at, value, neutral)

        if self.color:
            x = x + chosen("color", signed[0] / 2, 0)
            grey = x.mean(1, keepdim=True)
            x = grey + (x - grey) * chosen("color", 2 * amounts[1], 1)
            mean = x.mean((1, 2, 3), keepdim=True)
            x = mean + (x - mean) * chosen("color", amounts[2] + 0.5, 1)
        if {"crop", "flip", "scale", "rotate"} & set(self._on):
            angle = chosen("rotate", signed[0] * math.radians(self.rotate), 0)
            mirror = chosen("flip", signed[0].sign(), 1)
            stretch = [chosen("scale", self.scale**number, 1) for number in signed[:2]]
            shift = [chosen("crop", 2 * self.crop * number, 0) for number in signed[:2]]
            down, right = _axis(x, height)[:, None], _axis(x, width)
            cosine, sine = angle.cos(), angle.sin()
            rows = stretch[0] * (cosine * down + sine * right) + shift[0]
            columns = mirror * stretch[1] * (cosine * right - sine * down) + shift[1]
            x = (_tents(rows, height) @ x * _tents(columns, width)).sum(3)
            x = x.reshape(*x.shape[:2], height, width)
        if self.cutout:
            centre = [chosen("cutout", number, math.inf) for number in signed[:2]]
            near = [
                (_axis(x, height)[:, None] - centre[0]).abs() < self.cutout,
                (_axis(x, width) - centre[1]).abs() < self.cutout,
            ]
            x = torch.where(near[0] & near[1], 0, x)
        return x


def _axis(x: Tensor, size: int) -> Tensor:
    """The centres of pixels, between edges at -1 and 1."""
    return (2 * torch.arange(size, device=x.device, dtype=x.dtype) + 1) / size - 1


def _tents(position: Tensor, size: int) -> Tensor:
    """Weights of linear interpolation at positions [n, 1, h, w], of shape [n, 1, h * w, size]."""
    distance = (position.flatten(2)[..., None] - _axis(position, size)) * (size / 2)
    return (1 - distance.abs()).clamp(min=0)

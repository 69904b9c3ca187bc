"""How the images of a distilled set are stored: the outer parameters that they are made of."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.trees import Params


class Parametrization(abc.ABC):
    """A differentiable map from outer parameters to the images that networks are trained on.

    Its outer parameters are called `images` and, if there are more, `images.*`. Real images in the
    same memory, to compare with, are `images(deployed(begin(real, generator)))`.
    """

    def images_of_one(self, shape: tuple[int, ...]) -> int:
        """How many images for training the memory of one full image pays for.

        A task with `per_class` images has `per_class * images_of_one` of them.

        Args:
            shape: Of one image.
        """
        return 1

    @abc.abstractmethod
    def begin(self, images: Tensor, generator: torch.Generator) -> Params:
        """Outer parameters whose images are, or are near to, those given.

        Args:
            images: Normalised, of shape [n, ...], n a multiple of `images_of_one`.
            generator: On the CPU.
        """

    @abc.abstractmethod
    def images(self, outer: Params) -> Tensor:
        """The images for training, of the shape that `begin` was given."""

    def deployed(self, outer: Params) -> Params:
        """The outer parameters whose images are those that a file can hold. May be repeated."""
        return outer

    def penalty(self, outer: Params) -> Tensor | float:
        """What is added to the outer loss, a scalar."""
        return 0.0

    def entries(self, outer: Params, in_units: Callable[[Tensor], Tensor]) -> Params:
        """What a file says of the memory: `bytes`, at 8 bits a number, and what is stored in them.

        Args:
            outer: As they are deployed.
            in_units: Takes normalised images [n, channels, height, width] to the units of the data.
        """
        return {"bytes": torch.tensor(outer["images"].numel())}


@dataclass(frozen=True)
class Pixels(Parametrization):
    """Every value of every image is an outer parameter."""

    def begin(self, images: Tensor, generator: torch.Generator) -> Params:
        del generator
        return {"images": images}

    def images(self, outer: Params) -> Tensor:
        return outer["images"]

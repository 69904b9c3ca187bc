"""How the images of a distilled set are stored: the outer parameters that they are made of."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.trees import Params


class Parametrization(abc.ABC):
    """A differentiable map from outer parameters to the images that networks are trained on."""

    @property
    def images_of_one(self) -> int:
        """How many images for training the memory of one full image pays for.

        A task with `per_class` images has `per_class * images_of_one` of them.
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


@dataclass(frozen=True)
class Pixels(Parametrization):
    """Every value of every image is an outer parameter."""

    def begin(self, images: Tensor, generator: torch.Generator) -> Params:
        del generator
        return {"images": images}

    def images(self, outer: Params) -> Tensor:
        return outer["images"]

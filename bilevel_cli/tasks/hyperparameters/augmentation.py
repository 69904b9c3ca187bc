"""Augmentations of training examples, with settings that are outer parameters."""

import abc
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Params, Scalar
from bilevel_cli.nn.building import Shape, build


class Augmentation(abc.ABC):
    """A map of an example and random numbers to another example of its class.

    Attributes:
        noise_shape: Shape of the standard normal numbers that one example takes.
    """

    noise_shape: Shape

    @abc.abstractmethod
    def init(self, generator: torch.Generator) -> Params:
        """The outer parameters before the first step.

        Args:
            generator: On the CPU.
        """

    @abc.abstractmethod
    def __call__(self, x: Tensor, outer: Params, noise: Tensor) -> Tensor:
        """The augmented examples, twice differentiable in `outer`.

        Args:
            x: Examples, of shape [n, ...].
            outer: The outer parameters.
            noise: Of shape [n, *noise_shape].
        """

    @abc.abstractmethod
    def values(self, outer: Params) -> Params:
        """What is learned, in units and with names for people."""


NETWORK = "augmentation."


class Network(Augmentation):
    """A data augmentation network: x + scale * network([x, noise]), whose weights are outer.

    The network sees an example, and noise of the same shape as more channels, or as more columns of
    a table. If its outputs are zero, nothing is augmented (Lorraine, Vicol and Duvenaud, 2020,
    arXiv:1911.02590, use a U-net).

    Args:
        network: A network as conf/model builds it; its outputs are reshaped to an example.
        scale: Factor of its outputs, > 0. A small one begins almost without augmentation.
        input_shape: Shape of one example.
        device: Where the network lives.
    """

    def __init__(
        self,
        network: Callable[..., nn.Module],
        scale: float,
        input_shape: Shape,
        device: torch.device,
    ) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(
                f"Network needs a finite scale > 0, got scale={scale}. Set task.augmentation.scale."
            )
        channels, *sides = input_shape
        self.scale, self.noise_shape = scale, input_shape
        self.model = build(network, (2 * channels, *sides), math.prod(input_shape), device)

    def init(self, generator: torch.Generator) -> Params:
        return trees.prefixed(NETWORK, self.model.init(generator))

    def __call__(self, x: Tensor, outer: Params, noise: Tensor) -> Tensor:
        change = self.model.apply(trees.under(NETWORK, outer), torch.cat([x, noise], 1))
        return x + self.scale * change.reshape(x.shape)

    def values(self, outer: Params) -> Params:
        return {n: value for n, value in outer.items() if n.startswith(NETWORK)}


MAGNITUDE = "log_magnitude."


class Transforms(Augmentation):
    """Standard transforms of images, whose magnitudes are outer parameters exp(lambda).

    The pixel at offset p from the middle takes the value that is interpolated, bilinearly and with
    zeros outside of the image, at

        exp(scale u_1) Rotation(rotate u_2) [[1, shear u_3], [0, 1]] p + translate (u_4, u_5) size,

    and the result x becomes m + exp(contrast u_6) (x - m) + brightness u_7 + noise u, with its mean
    m. All u are standard normal, so a magnitude is a standard deviation. It keeps its sign, and
    never reaches zero; null leaves a transform out.

    Args:
        rotate: Magnitude before the first outer step, in degrees; or null.
        translate: Likewise, as a share of height and width.
        scale: Likewise, of the logarithm of the factor.
        shear: Likewise, of the tangent of the angle.
        contrast: Likewise, of the logarithm of the factor.
        brightness: Likewise, in units of a pixel.
        noise: Likewise, of independent noise in every pixel.
        input_shape: (channels, height, width) of one image.
        device: Where the magnitudes live.
    """

    def __init__(
        self,
        rotate: float | None,
        translate: float | None,
        scale: float | None,
        shear: float | None,
        contrast: float | None,
        brightness: float | None,
        noise: float | None,
        input_shape: Shape,
        device: torch.device,
    ) -> None:
        given = {
            "rotate": rotate,
            "translate": translate,
            "scale": scale,
            "shear": shear,
            "contrast": contrast,
            "brightness": brightness,
            "noise": noise,
        }
        self.initial = {name: size for name, size in given.items() if size is not None}
        bad = {name: size for name, size in self.initial.items() if not 0 < size < math.inf}
        if bad or not self.initial:
            got = ", ".join(f"{name}={size}" for name, size in (bad or given).items())
            raise ValueError(
                f"Transforms needs finite magnitudes > 0, at least one, got {got}. "
                "Set task.augmentation; null leaves a transform out."
            )
        if len(input_shape) != 3:
            raise ValueError(
                "Transforms needs images of shape [channels, height, width], got inputs of shape "
                f"{list(input_shape)}. Use task/augmentation=network."
            )
        self.device = device
        self.noise_shape = (7 + math.prod(input_shape),)

    def init(self, generator: torch.Generator) -> Params:
        return {
            MAGNITUDE + name: torch.tensor(math.log(size), device=self.device)
            for name, size in self.initial.items()
        }

    def __call__(self, x: Tensor, outer: Params, noise: Tensor) -> Tensor:
        def size(name: str) -> Scalar:
            return outer[MAGNITUDE + name].exp() if name in self.initial else 0.0

        u, height, width = noise[:, :7].T, *x.shape[2:]
        factor, angle = (size("scale") * u[0]).exp(), math.radians(1) * size("rotate") * u[1]
        cosine, sine, shear = factor * angle.cos(), factor * angle.sin(), size("shear") * u[2]
        across, down = size("translate") * width * u[3], size("translate") * height * u[4]
        rows = (cosine, shear * cosine - sine, across, sine, shear * sine + cosine, down)
        x = warp(x, torch.stack(rows, 1).reshape(-1, 2, 3))
        mean = x.mean((1, 2, 3), keepdim=True)
        contrast, brightness = size("contrast") * u[5], size("brightness") * u[6]
        x = mean + contrast.exp()[:, None, None, None] * (x - mean)
        x = x + brightness[:, None, None, None]
        return x + size("noise") * noise[:, 7:].reshape(x.shape)

    def values(self, outer: Params) -> Params:
        sizes = trees.under(MAGNITUDE, outer)
        return {f"magnitude.{name}": value.exp() for name, value in sizes.items()}


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Images moved by affine maps: the pixel at offset p from the middle was before at M (p, 1).

    Between pixels it interpolates bilinearly, and outside of the image all is zero. torch's
    grid_sample has no forward mode; the operations here have all derivatives.

    Args:
        images: Of shape [n, channels, height, width].
        matrices: M, of shape [n, 2, 3], for offsets (x, y) in pixels.

    Returns:
        Images of the same shape.
    """
    height, width = images.shape[2:]
    middle = ((width - 1) / 2, (height - 1) / 2)

    def offsets(size: int, middle: float) -> Tensor:
        return torch.arange(size, dtype=matrices.dtype, device=matrices.device) - middle

    y, x = torch.meshgrid(offsets(height, middle[1]), offsets(width, middle[0]), indexing="ij")
    source = matrices @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # [n, 2, pixels]
    source = torch.stack([source[:, 0] + middle[0], source[:, 1] + middle[1]], 1)
    corner = source.detach().floor()
    beyond = source - corner
    pixels, warped = images.flatten(2), torch.zeros_like(images.flatten(2))
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = corner[:, 0] + right, corner[:, 1] + below
        weight = (beyond[:, 0] if right else 1 - beyond[:, 0]) * (
            beyond[:, 1] if below else 1 - beyond[:, 1]
        )
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        index = index.long()[:, None].expand(-1, pixels.shape[1], -1)
        warped = warped + (weight * inside)[:, None] * pixels.gather(2, index)
    return warped.reshape(images.shape)

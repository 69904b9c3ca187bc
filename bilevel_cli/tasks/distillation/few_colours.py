"""Images of few colours, and so more images in the same memory, as AutoPalette stores them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.core.trees import Params
from bilevel_cli.tasks.distillation.parametrization import Parametrization

HIDDEN, BIAS, COLOURS = "images.hidden", "images.bias", "images.colours"
SHARP = 1e8  # times a logit, in float32: above it the softmax is an argmax, squared it is finite


@dataclass(frozen=True)
class Palette(Parametrization):
    """A network gives every pixel one of a few colours (AutoPalette, Yuan et al., 2024,
    arXiv:2411.11329).

        m_k   = softmax_k(colours . relu(hidden . pixel + bias))        at each pixel
        c_k   = sum over pixels of m_k pixel / sum over pixels of m_k   in each image
        image = sum_k m_k c_k

    Outer parameters are the pixels and the network. A file holds m as an argmax: the number of a
    colour for each pixel, and the colours of each image. Retraining sees the same images. The
    network is not needed any more.

    All images share the network. It begins as the posterior of a Gaussian mixture around colours
    that are cut as in median cut, but at means: most pixels of a digit share one colour, where a
    median cuts nothing.

    Colour terms are added to the outer loss. Here they move the pixels too; the authors let them
    move the network alone. Their fourth term, nearness to median cut, is the beginning here.

    Args:
        colours: n, of an image. The number of a colour takes ceil(log2 n) bits, where a pixel
            takes 8 for each channel.
        width: Hidden units of the network, at least 2 * channels + 1. 256 as published.
        network_lr: The step size of the network as a share of that of pixels, > 0. As published
            2e-4. Exactly with SGD; with Adam the share is its square root.
        present: Weight of -mean_k(max over pixels of m_k): every colour is used somewhere.
        spread: Weight of -entropy(mean over pixels of m): all colours are used alike.
        certain: Weight of the mean over pixels of entropy(m): the softmax is near an argmax.
    """

    colours: int
    width: int
    network_lr: float
    present: float
    spread: float
    certain: float

    def __post_init__(self) -> None:
        if not 2 <= self.colours <= 256:
            raise ValueError(f"Palette needs colours from 2 to 256, got colours={self.colours}.")
        if not 0 < self.network_lr < math.inf:
            raise ValueError(
                f"Palette needs a finite network_lr > 0, got network_lr={self.network_lr}."
            )
        for name in ("present", "spread", "certain"):
            weight = getattr(self, name)
            if not 0 <= weight < math.inf:
                raise ValueError(f"Palette needs a finite {name} >= 0, got {name}={weight}.")

    def images_of_one(self, shape: tuple[int, ...]) -> int:
        if len(shape) != 3:
            raise ValueError(
                f"Palette needs images, got examples of shape {list(shape)}. Leave out "
                "task/parametrization."
            )
        return max(8 * shape[0] // self._bits, 1)

    def begin(self, images: Tensor, generator: torch.Generator) -> Params:
        channels = images.shape[1]
        fixed = 2 * channels + 1
        if self.width < fixed:
            raise ValueError(
                f"Palette needs width >= {fixed} for {channels} channels, got width={self.width}."
            )
        colours, variance = cut(images.movedim(1, 3).flatten(0, 2), self.colours)
        # relu(x) - relu(-x) and relu(1) make any affine map; the other units have no weight yet.
        one = torch.eye(channels).to(images)
        other = draws.normal(self.width - fixed, channels + 1, generator=generator).to(images)
        hidden = torch.cat([one, -one, torch.zeros_like(one[:1]), other[:, :-1]])
        bias = torch.cat(
            [torch.zeros_like(hidden[: fixed - 1, 0]), hidden.new_ones(1), other[:, -1]]
        )
        norms = colours.square().sum(1, keepdim=True) / 2
        weights = torch.cat([colours, -colours, -norms], 1) / variance
        weights = torch.nn.functional.pad(weights, (0, self.width - fixed))
        network = {HIDDEN: hidden, BIAS: bias, COLOURS: weights}
        return {"images": images} | {n: w / self._scale for n, w in network.items()}

    def images(self, outer: Params) -> Tensor:
        m = self._logits(outer).softmax(2)
        return (m @ _palette(m, _rows(outer["images"]))).mT.reshape(*outer["images"].shape)

    def deployed(self, outer: Params) -> Params:
        return outer | {COLOURS: SHARP * outer[COLOURS]}

    def penalty(self, outer: Params) -> Tensor | float:
        if not (self.present or self.spread or self.certain):
            return 0.0
        log_m = self._logits(outer).log_softmax(2)
        m = log_m.exp()
        mean = m.mean(1)
        terms = (
            -self.present * m.amax(1).mean(),
            self.spread * (mean * mean.clamp(min=1e-12).log()).sum(1).mean(),
            -self.certain * (m * log_m).sum(2).mean(),
        )
        return sum(terms)

    def entries(self, outer: Params, in_units: Callable[[Tensor], Tensor]) -> Params:
        """`bytes`, `indices` [n, height, width] into `palette` [n, colours, channels]."""
        count, channels, height, width = outer["images"].shape
        chosen = self._logits(outer).argmax(2)
        m = (chosen[:, :, None] == torch.arange(self.colours, device=chosen.device)).to(
            outer["images"]
        )
        colours = _palette(m, _rows(outer["images"]))
        each = -(-height * width * self._bits // 8) + self.colours * channels
        return {
            "bytes": torch.tensor(count * each),
            "indices": chosen.to(torch.uint8).reshape(count, height, width),
            "palette": in_units(colours.mT[..., None])[..., 0].mT,
        }

    @property
    def _bits(self) -> int:
        return (self.colours - 1).bit_length()

    @property
    def _scale(self) -> float:
        """Network = scale * what is learned: a step of SGD then moves it scale^2 times as far."""
        return math.sqrt(self.network_lr)

    def _logits(self, outer: Params) -> Tensor:
        """Of shape [n, pixels, colours]."""
        hidden, bias, colours = (self._scale * outer[name] for name in (HIDDEN, BIAS, COLOURS))
        return (_rows(outer["images"]) @ hidden.mT + bias).relu() @ colours.mT


def cut(pixels: Tensor, colours: int) -> tuple[Tensor, Tensor]:
    """Cuts pixels [p, channels] into boxes: always the most scattered one, at its mean.

    Returns:
        The mean of each box, [colours, channels], and the variance within boxes, 0-dim.

    Raises:
        ValueError: The pixels have fewer colours.
    """
    box = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
    means = pixels.mean(0, keepdim=True)
    least = 1e-9 * (pixels - means).square().sum(0).max()
    for new in range(1, colours):
        scatter = torch.zeros_like(means).index_add_(0, box, (pixels - means[box]).square())
        worst, channel = divmod(int(scatter.argmax()), pixels.shape[1])
        if scatter[worst, channel] <= least:
            raise ValueError(
                f"Palette needs {colours} colours in the images that it begins with, got {new}. "
                "Lower task.parametrization.colours."
            )
        box[(box == worst) & (pixels[:, channel] > means[worst, channel])] = new
        means = torch.stack([pixels[box == one].mean(0) for one in range(new + 1)])
    within = (pixels - means[box]).square().mean()
    return means, within.clamp(min=least / len(pixels))


def _rows(images: Tensor) -> Tensor:
    """Images [n, channels, height, width] as pixels, [n, height * width, channels]."""
    return images.flatten(2).mT


def _palette(m: Tensor, pixels: Tensor) -> Tensor:
    """The mean pixel of each colour, of shape [n, colours, channels]."""
    # A colour without pixels is never seen: any finite value does.
    return m.mT @ pixels / m.sum(1)[..., None].clamp(min=1e-6)

"""Convolutional networks of few-shot learning and of dataset distillation."""

import math

from torch import Tensor, nn

from bilevel_cli.models.sizes import check_image, check_width
from bilevel_cli.nn.building import Shape
from bilevel_cli.nn.normalization import BatchNorm2d
from bilevel_cli.nn.pooling import AvgPool2x2, MaxPool2x2


class Conv4(nn.Module):
    """The four-block network of few-shot learning (Vinyals et al., 2016, arXiv:1606.04080).

    Each block is a 3x3 convolution, batch normalisation by the statistics of the batch at hand,
    2x2 max-pooling and ReLU. Pooling ends where a side is down to one pixel, so that images may be
    small. Then comes one affine layer, `head`. ReLU and pooling commute exactly; in this order the
    forward pass takes 0.8 of the time.

    Args:
        width: Number of filters of each block.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        check_width("Conv4", width=width)
        check_image("Conv4", input_shape)
        channels, *sides = input_shape
        blocks: list[nn.Module] = []
        for _ in range(4):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=1),
                BatchNorm2d(width),
            ]
            if min(sides) >= 2:
                blocks.append(MaxPool2x2())
                sides = [side // 2 for side in sides]
            blocks.append(nn.ReLU())
            channels = width
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * math.prod(sides), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class ConvNet(nn.Module):
    """The network of dataset distillation (Gidaris & Komodakis, 2018; Zhao et al., 2021).

    Each block is a 3x3 convolution, instance normalisation, ReLU and 2x2 average-pooling
    (arXiv:2006.05929). Then comes one affine layer, `head`. As in that paper, the first block pads
    images of one channel by 3 pixels, which makes MNIST's 28x28 pixels 32x32.

    Args:
        width: Number of filters of each block.
        depth: Number of blocks; an image needs sides of at least 2^depth pixels.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, depth: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        check_width("ConvNet", width=width, depth=depth)
        check_image("ConvNet", input_shape)
        channels, *sides = input_shape
        padding = 3 if channels == 1 else 1
        sides = [side + 2 * (padding - 1) for side in sides]
        if min(sides) < 2**depth:
            raise ValueError(
                f"ConvNet needs images with sides >= 2^depth = {2**depth}, "
                f"got {list(input_shape[1:])}. Lower model.depth."
            )
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=padding),
                nn.GroupNorm(width, width),  # one group a channel: instance normalisation
                nn.ReLU(),
                AvgPool2x2(),
            ]
            channels, padding, sides = width, 1, [side // 2 for side in sides]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * math.prod(sides), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))

"""Residual networks: of few-shot learning and of CIFAR-10."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, max_pool2d, pad, relu

from bilevel_cli.models.sizes import check_image, check_width
from bilevel_cli.nn.building import Shape
from bilevel_cli.nn.normalization import BatchNorm2d


class ResNet12(nn.Module):
    """The residual network of few-shot learning (Oreshkin et al., 2018, arXiv:1805.10123).

    Four blocks of `width`, 2, 4 and 8 times as many channels: three 3x3 convolutions, and a 1x1
    convolution around them, each with batch normalisation by the statistics of the batch at hand.
    2x2 max-pooling follows the first three blocks, as in Liu et al. (2021, arXiv:2110.00455). It
    ends where a side is down to one pixel, so that images may be small. Then come the mean over all
    pixels and one affine layer, `head`. There are 7,996,800 parameters before the head at width 64
    and three channels.

    Args:
        width: Channels of the first block.
        slope: Slope of the leaky ReLU for negative numbers; 0 for a ReLU.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, slope: float, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        check_width("ResNet12", width=width)
        check_image("ResNet12", input_shape)
        channels = [input_shape[0], *(width * 2**block for block in range(4))]
        blocks = [_Triple(before, after, slope) for before, after in pairwise(channels)]
        self.features = nn.ModuleList(blocks)
        self.head = nn.Linear(channels[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.features):
            x = block(x)
            if number < 3 and min(x.shape[2:]) >= 2:
                x = max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class CifarResNet(nn.Module):
    """The residual networks of CIFAR-10, of depth 6 * blocks + 2 (He et al., 2016).

    After arXiv:1512.03385: a 3x3 convolution, then three stages of `width`, 2 and 4 times as many
    channels. A stage is `blocks` pairs of 3x3 convolutions with the identity around each pair. The
    second and the third stage begin by halving the sides; there the identity takes every other
    pixel and gets channels of zeros (option A). Each convolution has no bias, and is followed by
    batch normalisation with the statistics of the batch at hand. Then come the mean over all pixels
    and one affine layer, `head`. Five blocks of width 16 are ResNet-32, with 464,154 parameters.

    Args:
        width: Channels of the first stage.
        blocks: Pairs of convolutions of each stage.
        input_shape: (channels, height, width) of one image.
        num_outputs: Number of outputs.
    """

    def __init__(self, width: int, blocks: int, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        check_width("CifarResNet", width=width, blocks=blocks)
        check_image("CifarResNet", input_shape)
        stages = [width * 2**stage for stage in range(3) for _ in range(blocks)]
        self.stem = _convolution(input_shape[0], width)
        pairs = [_Pair(before, after) for before, after in pairwise([width, *stages])]
        self.features = nn.Sequential(*pairs)
        self.head = nn.Linear(stages[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(relu(self.stem(x))).mean((2, 3)))


class _Triple(nn.Module):
    """leaky_relu(three convolutions of x + a 1x1 convolution of x)."""

    def __init__(self, before: int, after: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        sizes = pairwise([before, after, after, after])
        self.convolutions = nn.ModuleList(_convolution(one, other) for one, other in sizes)
        self.shortcut = _convolution(before, after, side=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution in self.convolutions[:-1]:
            y = leaky_relu(convolution(y), self.slope)
        return leaky_relu(self.convolutions[-1](y) + self.shortcut(x), self.slope)


class _Pair(nn.Module):
    """relu(two convolutions of x + x)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if before == after else (2, after - before)
        self.first = _convolution(before, after, stride=self.stride)
        self.second = _convolution(after, after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(relu(self.first(x)))
        every = x[:, :, :: self.stride, :: self.stride]
        return relu(y + pad(every, (0, 0, 0, 0, 0, self.more)))


class _Convolution(nn.Conv2d):
    """Begun by the scheme of He et al. (2015, arXiv:1502.01852)."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


def _convolution(before: int, after: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _Convolution(before, after, side, stride, padding=side // 2, bias=False),
        BatchNorm2d(after),
    )

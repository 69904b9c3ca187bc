"""Where the layers of this package take the place of torch's own.

Products of affine layers are measured where they are computed (`choosing`). For the other layers
measuring would not earn its place: the width of a vector decides for the softmax (`losses`), and
for the rest a processor without AVX512 has the same ratios. The time of ours over that of torch, on
one core of an AMD EPYC, of a gradient and of a product with second derivatives, in float32:

                                           with AVX512      limited to AVX2
    max pooling [8, 16, 28, 28]            0.66   0.76      0.65   0.81
    max pooling [75, 64, 28, 28]           0.41   0.65      0.43   0.62
    average pooling [8, 16, 28, 28]        0.53   0.58      0.53   0.54
    average pooling [75, 64, 28, 28]       0.26   0.36      0.28   0.36
    batch normalisation [5, 64, 28, 28]    0.79   0.63      0.79   0.63
    batch normalisation [75, 64, 28, 28]   0.83   0.54      0.81   0.54
    batch normalisation [25, 64, 5, 5]     1.23   1.06      1.22   1.04

The last one is ours in spite of that, for its third derivative.
"""

import torch
from torch import Tensor

from bilevel_cli.core import autodiff


def serves(x: Tensor, mapped: bool = False) -> bool:
    """Whether a layer of this package takes `x`; where it does not, torch's own layer does.

    The layers were measured on a CPU. Most of them are a torch.autograd.Function, which no mapping
    (`autodiff.mapped`) can look into, and which autocast does not know.

    Args:
        x: An input of the layer.
        mapped: Whether the layer works within a mapping, too.
    """
    if not x.is_cpu or (autodiff.mapped() and not mapped):
        return False
    return not torch.is_autocast_enabled("cpu")

"""Where the layers of this package take the place of torch's own."""

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

"""Where the layers of this package take the place of torch's own."""

from torch import Tensor

from bilevel_cli.core import autodiff


def serves(x: Tensor, mapped: bool = False) -> bool:
    """Whether a layer of this package takes `x`; where it does not, torch's own layer does.

    The layers were measured on a CPU. Most of them are a torch.autograd.Function, which no mapping
    (`autodiff.mapped`) can look into.

    Args:
        x: An input of the layer.
        mapped: Whether the layer works within a mapping, too.
    """
    return x.is_cpu and (mapped or not autodiff.mapped())

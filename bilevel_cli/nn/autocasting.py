"""Models that compute in bfloat16 where this is enough: torch's autocast, within a call of a model.

Matrix products and convolutions take bfloat16 copies of their factors, and keep these for the
derivatives. Parameters, their gradients and what a model returns stay float32, and so does all that
is computed outside of a model. float16 is not offered: its gradients would have to be scaled, and
no scale of a loss serves the inner and the outer gradients of a hypergradient at once.
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from bilevel_cli.core import autodiff

MIXED = "bf16-mixed"
# Their statistics are float32 on every device, as torch has it on a GPU for some of them.
NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
# What autocast does in bfloat16 and does not reach within a mapping: torch 2.13 maps a function
# first, and casts only where matrix products are left.
UNREACHED = {
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    *(functional.linear, torch.addmm, torch.baddbmm, torch.prelu),
    # The last holds the others out of reach: a mode is told of it as a whole.
    *(functional.scaled_dot_product_attention, functional.multi_head_attention_forward),
}

_precision: str | None = None  # of the process: episodes run on threads, which inherit no autocast


def use(precision: str | None) -> None:
    """Sets how models compute in this process.

    Args:
        precision: "bf16-mixed", or None for the type of their parameters throughout.
    """
    global _precision
    _precision = precision


def used() -> str | None:
    """What `use` was told last."""
    return _precision


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Makes the precision what it was before, when the context ends."""
    before = _precision
    try:
        yield
    finally:
        use(before)


def called(module: nn.Module, params: dict[str, Tensor], x: Tensor) -> Any:
    """What `module` returns at `x` with parameters `params`, in the precision of the process.

    Autocast keeps no copies of parameters from one operation to the next: they would be of another
    inner step, or of a graph that is gone.
    """
    if _precision is None:
        return torch.func.functional_call(module, params, (x,))
    within = _Mapped() if autodiff.mapped() else contextlib.nullcontext()
    with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False), within:
        return torch.func.functional_call(module, params, (x,))


class _Mapped(TorchFunctionMode):
    """A context in which the functions of UNREACHED compute in bfloat16, mapped or not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given = (args, kwargs or {})
        if func not in UNREACHED:
            return func(*args, **given[1])
        args, kwargs = tree_map(_lowered, given)
        # Attention in bfloat16 computes in float32 within. Autocast would undo that in some of its
        # operations, and the derivative of a mapping would then mix the two types.
        devices = {x.device.type for x in tree_leaves(args) if isinstance(x, Tensor)}
        with torch.autocast(next(iter(devices), "cpu"), enabled=False):
            return func(*args, **kwargs)


def _lowered(x: Any) -> Any:
    return x.bfloat16() if isinstance(x, Tensor) and x.dtype == torch.float32 else x


def widened(output: Any) -> Any:
    """What a model returned, in float32 where it or autocast has rounded it to 16 bits."""
    rounded = isinstance(output, Tensor) and output.dtype in (torch.bfloat16, torch.float16)
    return output.float() if rounded else output


def routed(module: nn.Module) -> nn.Module:
    """Changes `module`: its normalisations compute in float32, and give back what they were given.

    Returns:
        The same module.
    """
    found: list[Any] = [part for part in module.modules() if isinstance(part, NORMALISATIONS)]
    for part in found:
        forward = getattr(part.forward, "__func__", None)
        if forward is not None:  # else a user has set a plain function, which stays as it is
            part.forward = types.MethodType(_in_float32(forward), part)
    return module


def _in_float32(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def normalised(self: Any, x: Tensor) -> Tensor:
        if _precision is None:
            return forward(self, x)
        with torch.autocast(x.device.type, enabled=False):
            return forward(self, x.float()).to(x.dtype)

    return normalised

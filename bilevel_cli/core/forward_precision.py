"""Keeps forward mode in the precision of its argument, where torch leaves it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# By these torch 2.13 gives a 0-dim tensor of float32 and a number of Python a tangent of float64,
# under torch.func.jvp alone. A later matrix product with it and a tensor of float32 is refused.
WIDENING = frozenset(
    {
        *(torch.mul, torch.multiply, torch.sub, torch.subtract),
        *(Tensor.mul, Tensor.multiply, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__),
        *(Tensor.sub, Tensor.subtract, Tensor.sub_, Tensor.__sub__),
        *(Tensor.__imul__, Tensor.__isub__),
    }
)


class SamePrecision(TorchFunctionMode):
    """Within, the number of a product or a difference has the type of the 0-dim tensor beside it.

    The value stays: in float32 torch rounds the number likewise.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in WIDENING and len(args) == 2:
            first, second = args
            args = _alike(first, second), _alike(second, first)
        return func(*args, **(kwargs or {}))


def _alike(number: Any, beside: Any) -> Any:
    """A number of Python as a tensor of the type of `beside`, and anything else as it is."""
    if not isinstance(number, int | float) or not isinstance(beside, Tensor):
        return number
    if beside.dim() or not beside.is_floating_point():
        return number
    return torch.tensor(number, dtype=beside.dtype)  # on the host: a device takes it from there

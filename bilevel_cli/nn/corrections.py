"""Functions of torch that have a wrong derivative, corrected where a model calls them.

Torch 2.13 has two such kinds, and says nothing of either:

* `F.layer_norm`, `F.batch_norm` and `F.instance_norm`: the third derivative (`third_derivatives`,
  which routes the modules of torch; a model may also call the functions).
* `torch._weight_norm`, which both forms of `weight_norm` in torch.nn.utils call: the second
  derivative in the direction, by 0.6 % to 40 % on random numbers, and every one in forward mode.

In bfloat16 those functions, and those of group and RMS normalisation, take statistics in float32.

`tests/nn/test_derivatives_of_torch.py` holds torch's functions to differences, and lists the rest.
Such a context costs every operation within: a call of an MLP of three layers on 16 rows takes 82
microseconds of CPU time for 64 without. So a model that was checked is called within it only
where the check saw it call such a function.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from bilevel_cli.nn import third_derivatives


class Corrected(TorchFunctionMode):
    """A context within which those functions have right derivatives.

    Attributes:
        used: Whether one of them was called.
    """

    used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in _NORMALISING and given.get("input", *args[:1]).dtype == torch.bfloat16:
            self.used = True
            return self._in_float32(func, types, args, given)
        corrected = _CORRECTED.get(func)
        found = None if corrected is None else corrected(*args, **given)
        if found is None:
            return func(*args, **given)
        self.used = True
        return found

    def _in_float32(self, func: Any, types: Any, args: Any, given: Any) -> Any:
        """As `autocasting.routed` has it of modules: the statistics are float32."""
        wide = tree_map_only(Tensor, _widened, (args, given))
        device = given.get("input", *args[:1]).device.type
        with torch.autocast(device, enabled=False):
            return self.__torch_function__(func, types, *wide).bfloat16()


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def corrected(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` in a context of this kind, unless its first call called no such function."""
    seen: list[bool] = []  # what the first call found

    def call(*args: Any) -> Any:
        mode = Corrected()
        with mode if not seen or seen[0] else contextlib.nullcontext():
            found = fn(*args)
        if not seen:
            seen.append(mode.used)
        return found

    return call


# Each takes the arguments of torch's function, and returns None for what it leaves to torch.


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    return third_derivatives.over_layers(input, tuple(normalized_shape), weight, bias, eps)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not training or running_mean is not None:  # it would have to be moved
        return None
    return third_derivatives.over_batches(input, weight, bias, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not use_input_stats or running_mean is not None:
        return None
    return third_derivatives.over_instances(input, weight, bias, eps)


def _in_other_order(corrected: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """For the functions in `torch`, which take the arguments of those in `functional` so."""

    def call(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        *rest: Any,
        **named: Any,
    ) -> Tensor | None:
        # Without the last, which tells whether cuDNN may be used.
        named.pop("cudnn_enabled", None)
        return corrected(input, running_mean, running_var, weight, bias, *rest[:3], **named)

    return call


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


_CORRECTED: dict[Any, Callable[..., Tensor | None]] = {
    functional.layer_norm: _layer_norm,
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
    torch.layer_norm: _layer_norm,
    torch.batch_norm: _in_other_order(_batch_norm),
    torch.instance_norm: _in_other_order(_instance_norm),
    torch._weight_norm: _weight_norm,
}
_NORMALISING = {
    *(_CORRECTED.keys() - {torch._weight_norm}),
    *(functional.group_norm, torch.group_norm, functional.rms_norm, torch.rms_norm),
}

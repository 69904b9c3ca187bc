"""Convolutions of data, without a derivative in the data that torch computes and drops.

The second derivative of torch's convolution contains one in its input, also where the input is data
and nothing asks for it. On [5, 1, 28, 28], with 64 filters, it takes 0.70 ms, and the convolution
0.13 ms, in float32 on one core of an AMD EPYC. Values and derivatives are torch's to rounding.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn

from bilevel_cli.nn.serving import serves

Geometry = tuple[Any, ...]  # stride, padding, dilation, transposed, output padding, groups


def routed(module: nn.Module) -> nn.Module:
    """Changes `module`: layers that have the forward of nn.Conv2d spare the derivative in data.

    Returns:
        The same module.
    """
    for part in module.modules():
        if getattr(part.forward, "__func__", None) is nn.Conv2d.forward:
            part.forward = types.MethodType(_forward, part)  # deepcopy binds it to the copy
    return module


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    learned = torch.is_grad_enabled() and self.weight.requires_grad and not x.requires_grad
    plain = self.padding_mode == "zeros" and not isinstance(self.padding, str) and x.dim() == 4
    if not (learned and plain and serves(x) and x.dtype == self.weight.dtype):
        return nn.Conv2d.forward(self, x)
    geometry = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
    return _Filtered.apply(x, self.weight, self.bias, geometry)  # type: ignore[no-untyped-call]


class _Filtered(torch.autograd.Function):
    """The convolution of x with filters w, plus b: linear in (w, b)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.biased = geometry, bias is not None
        return torch.ops.aten.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        correlated: Any = _Correlated.apply
        return None, *correlated(grads[0], x, weight.detach(), ctx.biased, ctx.geometry), None


class _Correlated(torch.autograd.Function):
    """The adjoint of `_Filtered` in (w, b), whose own adjoint is `_Filtered` again."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, biased: bool, geometry: Geometry
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(x)
        ctx.geometry = geometry
        sizes = [len(weight)] if biased else None
        asked = [False, True, biased]
        # Of the filters it reads the shape.
        found = torch.ops.aten.convolution_backward(g, x, weight, sizes, *geometry, asked)
        return tuple(found[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        filtered: Any = _Filtered.apply
        return filtered(ctx.saved_tensors[0], *grads, ctx.geometry), None, None, None, None

"""2x2 pooling that is fast on a CPU, where torch visits the windows one by one.

Both layers compute with whole tensors instead, and can be differentiated any number of times. Small
inputs, and those that `serving.serves` leaves to torch, go through torch's own pooling. Inputs are
[batch, channels, height, width], outputs [batch, channels, height // 2, width // 2].
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

from bilevel_cli.nn.serving import serves

SMALLEST = 100_000  # entries: in a smaller input, more kernels cost more than they save


def _torch_is_faster(x: Tensor) -> bool:
    return x.numel() < SMALLEST or not serves(x)


class MaxPool2x2(nn.Module):
    """nn.MaxPool2d(2): the same values and the same derivatives, also where entries are equal.

    [75, 64, 28, 28] in float32 on one core of an AMD EPYC: torch 20.5 ms, this 2.1 ms, and 7.3 ms
    where a derivative will follow.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _torch_is_faster(x):
            return max_pool2d(x, 2)
        if torch.is_grad_enabled() and x.requires_grad:
            return _MaxPool.apply(x)  # type: ignore[no-untyped-call]
        return torch.maximum(*_halves(torch.maximum(*_halves(x, 3)), 2))


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        left, right = _halves(x, 3)
        top, bottom = _halves(torch.maximum(left, right), 2)
        # Of equal entries the first in reading order, as in torch: `>`, and columns before rows.
        right_top, right_bottom = _halves(right > left, 2)
        down = bottom > top
        column = (down & right_bottom) | (~down & right_top)  # torch.where takes ten times as long
        rows, columns = (torch.arange(0, n - 1, 2, dtype=torch.int32) for n in (height, width))
        index = rows[:, None] * width + columns + down.int() * width + column.view(torch.uint8)
        ctx.save_for_backward(x, index.long())
        return torch.maximum(top, bottom)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, index = ctx.saved_tensors
        # Differentiable itself, so derivatives of any order follow.
        return torch.ops.aten.max_pool2d_with_indices_backward(
            grads[0], x, [2, 2], [2, 2], [0, 0], [1, 1], False, index
        )


class AvgPool2x2(nn.Module):
    """nn.AvgPool2d(2), to rounding.

    [64, 128, 32, 32] in float32 on one core of an AMD EPYC: torch 23 ms, this 3.6 ms; the backward
    pass 27 ms and 4.0 ms.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _torch_is_faster(x) or x.shape[2] % 2 or x.shape[3] % 2:
            return avg_pool2d(x, 2)
        return _Average.apply(x)  # type: ignore[no-untyped-call]


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        top, bottom = _halves(x, 2)
        left, right = _halves(top + bottom, 3)
        return (left + right).mul_(0.25)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Spread.apply(grads[0])  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """The adjoint of the average: each entry, divided by four, in all four places of its window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        quarter = x * 0.25
        # A complex number is the fastest way to write an entry twice in a row.
        row = torch.view_as_real(torch.complex(quarter, quarter)).flatten(3)
        return torch.stack([row, row], 3).flatten(2, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Average.apply(grads[0])  # type: ignore[no-untyped-call]


def _halves(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The even and the odd entries along `dim`, without a last one that has no partner."""
    even = x.narrow(dim, 0, x.shape[dim] // 2 * 2)
    pairs = even.unflatten(dim, (-1, 2))  # type: ignore[no-untyped-call]
    return pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)

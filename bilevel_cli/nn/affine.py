"""Affine layers through oneDNN, where its kernels are faster than torch's choice."""

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel_cli.nn.serving import serves

_kernel: Any = None  # oneDNN's, of a process that uses it


def use(kernels: str) -> None:
    """Sets, for this process, which kernels the affine layers of models take.

    Args:
        kernels: "auto" for oneDNN's where they are faster, or "torch" for torch's choice.
    """
    global _kernel
    _kernel = None
    if kernels == "auto" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _kernel = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def routed(module: nn.Module) -> nn.Module:
    """`module`, with x W^T + b of `affine` in each of its layers whose forward is nn.Linear's."""
    for part in module.modules():
        if getattr(part.forward, "__func__", None) is nn.Linear.forward:
            part.forward = types.MethodType(_forward, part)  # deepcopy binds it to the copy
    return module


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return affine(x, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, differentiable to any order.

    Args:
        x: [batch, inputs], or anything that torch.nn.functional.linear takes.
        weight: [outputs, inputs].
        bias: [outputs], or None.
    """
    if _kernel is None or x.dim() != 2 or not _large(x, weight):
        return functional.linear(x, weight, bias)
    if not (serves(x) and serves(weight)):
        return functional.linear(x, weight, bias)
    return _Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]


class _Affine(torch.autograd.Function):
    """a b^T + c. Its derivatives are such products again, and only those asked for are taken."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return _product(a, b, c)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), grad, (in_a, in_b) = ctx.saved_tensors, grads[0], _asked_for(ctx)
        return (
            _in_layout_of(a, grad, b.t()) if in_a else None,
            _in_layout_of(b, grad.t(), a.t()) if in_b else None,
            grad.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _asked_for(ctx: Any) -> tuple[bool, bool]:
    # A Function is told which factors have a graph, and not which ones this backward pass leads to
    # (github.com/pytorch/pytorch/issues/174017). Where images are learned, that is a product more
    # for each inner step: 17.0 and not 13.8 ms, x[500, 784] and 128 outputs, derivative included.
    if not all(ctx.needs_input_grad[:2]):
        return ctx.needs_input_grad[:2]
    (a, _), (b, _), *_ = ctx.next_functions
    return _visits(a), _visits(b)


def _visits(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # how it says that the node is a leaf whose derivative is asked for
        return True


def _in_layout_of(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # The second derivative of a layer in its output is then x C^T, and not the transpose of C x^T,
    # with which the softmax before it would be slow.
    product: Any = _Affine.apply
    return product(a, b, None) if x.is_contiguous() else product(b, a, None).t()


def _product(a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
    if not _faster(a, b):
        return functional.linear(a, b, c)
    # oneDNN copies a first factor whose rows are apart, and takes the second one either way.
    if not a.is_contiguous() and b.numel() < a.numel():
        swapped = _kernel(_dense(b), _dense(a), None, "none", [], "").t()
        return (swapped if c is None else swapped + c).contiguous()
    bias = None if c is None else c.contiguous()  # it reads others as if they were
    return _kernel(a, _dense(b), bias, "none", [], "")


def _dense(x: Tensor) -> Tensor:
    # Second factors of other layouts take oneDNN a thousand times as long: 1.5 s and not 1.7 ms.
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


# The rule goes by shapes alone, so that a run repeats bit for bit. One core of an AMD EPYC with
# AVX512, torch 2.13 with MKL 2024.2, time of oneDNN over that of F.linear, x[m, k] and n outputs:
#
#         m     k    n    x W^T   G^T x   G W
#      5000   784   10    0.42    0.65   0.46
#      1000   784   10    0.48    0.73   0.76
#      5000  2000   20    0.64    0.80   0.91
#       300  2000   10    0.48    0.74   0.87
#      5000   256   32    0.71    1.00   0.64
#      5000   784    3    1.33    0.43   0.36    fewer than 5 columns of a product
#      5000  2000    1    0.88    1.48   1.06    vectors
#      5000    64   10    0.42    1.25   0.99    products of fewer than 256 rows and columns
#      1000    64   32    1.11    1.61   1.21    no matrix of 2^18 entries
#       300   256   32    1.06    1.25   1.16    likewise
def _faster(a: Tensor, b: Tensor) -> bool:
    rows, columns = a.shape[0], b.shape[0]
    return columns >= 5 and max(rows, columns) >= 256 and _large(a, b)


def _large(a: Tensor, b: Tensor) -> bool:
    least, middle, most = sorted((*a.shape, b.shape[0]))
    if least < 2 or middle * most < 2**18:
        return False
    return a.dtype == b.dtype == torch.float32

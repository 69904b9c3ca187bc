"""Affine layers through oneDNN, where its kernels are faster than torch's choice.

Which is faster depends on the processor: one with AVX2 alone takes 0.58 to 1.65 times as long
through oneDNN as through torch, by shapes. So each kind of product is measured (`choosing`).

Only this file knows of oneDNN, and `device.linear=torch` switches it off. It is on probation: it
needs two private functions of torch (`mkldnn._linear_pointwise`, `_will_engine_execute_node`), and
replaces the `forward` of layers. The first torch in which either fails ends it.

What it gains, in seconds of one hypergradient with `device.linear=torch` and with `fixed`: medians
of five on benchmarks of full size, by two threads on two cores of an AMD EPYC with AVX512, torch
2.13.0.

                                     torch    fixed    ratio
    cleaning linear, unrolled        0.651    0.399     1.63
    cleaning linear, CG              0.433    0.250     1.71
    cleaning linear, Neumann         0.439    0.245     1.81
    pessimistic step middle          0.926    0.507     1.83
    cleaning MLP, unrolled           2.235    2.141     1.05

`python -m benchmarks linear` measures them again.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel_cli.nn import choosing
from bilevel_cli.nn.serving import serves

_kernel: Any = None  # the one of oneDNN, once `use` has chosen it


def use(kernels: str) -> None:
    """Sets which kernels the affine layers of models take in this process.

    Args:
        kernels: "auto" for oneDNN's where they are measured to be faster, "fixed" where they were
            on the processor below, or "torch" for torch's choice.
    """
    global _kernel
    _kernel = None
    choosing.begin(measuring=kernels == "auto")
    if kernels != "torch" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _kernel = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@contextlib.contextmanager
def kernels_restored() -> Iterator[None]:
    """Makes the kernels what they were before, when the context ends."""
    global _kernel
    before = _kernel
    try:
        with choosing.restored():
            yield
    finally:
        _kernel = before


def routed(module: nn.Module) -> nn.Module:
    """Changes `module`: each layer that has the forward of nn.Linear calls `affine` instead.

    Returns:
        The same module.
    """
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

    Returns:
        [batch, outputs].
    """
    if _kernel is None or x.dim() != 2 or not _large(x, weight):
        return functional.linear(x, weight, bias)
    if not (serves(x) and serves(weight)):
        return functional.linear(x, weight, bias)
    return _Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]


class _Affine(torch.autograd.Function):
    """a b^T + c, of a [m, k], b [n, k] and c [n] or None.

    Its derivatives are products of the same kind. A backward pass computes those that it needs.
    """

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
    # (github.com/pytorch/pytorch/issues/174017). Without asking, a run that learns images takes one
    # more product in each inner step: 17.0 ms instead of 13.8, x[500, 784] and 128 outputs,
    # derivative included.
    if not all(ctx.needs_input_grad[:2]):
        return ctx.needs_input_grad[:2]
    (a, _), (b, _), *_ = ctx.next_functions
    return _visits(a), _visits(b)


def _visits(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # what it raises for a leaf whose derivative is asked for
        return True


def _in_layout_of(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # The second derivative of a layer in its output is then x C^T. As the transpose of C x^T it
    # would make the softmax of a loss slow.
    product: Any = _Affine.apply
    return product(a, b, None) if x.is_contiguous() else product(b, a, None).t()


def _product(a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
    if not _large(a, b):
        return functional.linear(a, b, c)
    kernels = {
        "onednn": lambda: _through_onednn(a, b, c),
        "torch": lambda: functional.linear(a, b, c),
    }
    (rows, inner), threads = a.shape, torch.get_num_threads()
    case = Product(rows, inner, len(b), _layout(a), _layout(b), threads)
    usual = "onednn" if _usually_faster(a, b) else "torch"
    # A subclass of Tensor may hold no values: torch traces functions with such ones.
    whole = all(type(x) in (Tensor, nn.Parameter) for x in (a, b))
    return choosing.current().fastest(case, usual, kernels, whole)()


class Product(NamedTuple):
    """What decides which kernel of a product a b^T is faster.

    Attributes:
        rows: Of a.
        inner: The numbers in a row of a, and of b.
        columns: The rows of b.
        first: The layout of a: "rows" or "columns" where these lie one behind the other.
        second: That of b.
        threads: On which it is computed.
    """

    rows: int
    inner: int
    columns: int
    first: str
    second: str
    threads: int

    def __str__(self) -> str:
        sizes = f"[{self.rows}, {self.inner}] by [{self.columns}, {self.inner}]"
        return f"product {sizes} in {self.first} and {self.second}, threads={self.threads}"


def _layout(x: Tensor) -> str:
    return "rows" if x.is_contiguous() else "columns" if x.t().is_contiguous() else "apart"


def _through_onednn(a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
    # oneDNN copies a first factor that is not contiguous, and takes a second one of either layout.
    if not a.is_contiguous() and b.numel() < a.numel():
        swapped = _kernel(_dense(b), _dense(a), None, "none", [], "").t()
        return (swapped if c is None else swapped + c).contiguous()
    bias = None if c is None else c.contiguous()  # oneDNN reads any other as if it were
    return _kernel(a, _dense(b), bias, "none", [], "")


def _dense(x: Tensor) -> Tensor:
    # A second factor of another layout takes oneDNN a thousand times as long: 1.5 s, not 1.7 ms.
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


# The kernel of a product that is not measured, or is nearly as fast in both. The time of oneDNN
# over that of F.linear, x[m, k] and n outputs, on one core of an AMD EPYC with AVX512, torch 2.13,
# MKL 2024.2:
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
def _usually_faster(a: Tensor, b: Tensor) -> bool:
    rows, columns = a.shape[0], b.shape[0]
    return columns >= 5 and max(rows, columns) >= 256


def _large(a: Tensor, b: Tensor) -> bool:
    least, middle, most = sorted((*a.shape, b.shape[0]))
    if least < 2 or middle * most < 2**18:
        return False
    return a.dtype == b.dtype == torch.float32

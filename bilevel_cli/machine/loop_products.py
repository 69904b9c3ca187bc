"""Which way round a compiled loop takes a product of matrices: a b, or the transpose of b^T a^T.

The numbers are the same to rounding, the times are not. In float32, [64, 784] by [784, 10] in rows
and columns takes 37 microseconds as it stands and 19 the other way round, on one core of an AMD
EPYC with MKL 2024.2. So each kind of product is measured (`nn.choosing`).
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, fx

from bilevel_cli.nn import choosing

FEWEST = 2**17  # multiplications of a product that is worth a measurement
REPEATED = 10  # times of one measurement: a single product is as short as a look at a clock

STRAIGHT, TURNED = "straight", "turned"  # the names of the two kernels


class LoopProduct(NamedTuple):
    """What decides which way round a product is faster.

    Attributes:
        first: The shape and the strides of a.
        second: Those of b.
        dtype: Of both.
        threads: On which it is computed.
    """

    first: tuple[tuple[int, ...], tuple[int, ...]]
    second: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: torch.dtype
    threads: int

    def __str__(self) -> str:
        (a, one), (b, other) = self.first, self.second
        return (
            f"product in a loop {list(a)} by {list(b)} of strides {list(one)} and {list(other)}, "
            f"{self.dtype}, threads={self.threads}"
        )


def turn(body: fx.GraphModule) -> None:
    """Turns each product of a graph that is faster the other way round.

    Args:
        body: A traced function; its products have fake tensors as values.
    """
    permute = torch.ops.aten.permute.default
    faster: dict[LoopProduct, bool] = {}
    for node in body.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
        a, b = node.args
        case = _case(a.meta["val"], b.meta["val"])
        if case not in faster:
            faster[case] = _turned_is_faster(case)
        if not faster[case]:
            continue

        def made(target: object, *args: object) -> fx.Node:
            found: fx.Node = body.graph.call_function(target, args)  # type: ignore[arg-type]
            values = [x.meta["val"] if isinstance(x, fx.Node) else x for x in args]
            found.meta["val"] = target(*values)  # type: ignore[operator]
            return found

        with body.graph.inserting_before(node):
            product = made(node.target, made(permute, b, [1, 0]), made(permute, a, [1, 0]))
            node.replace_all_uses_with(made(permute, product, [1, 0]))
        body.graph.erase_node(node)
    body.recompile()


def _turned_is_faster(case: LoopProduct) -> bool:
    ((rows, inner), _), ((_, columns), _) = case.first, case.second
    if rows * inner * columns < FEWEST:
        return False
    a, b = (
        torch.empty_strided(shape, strides, dtype=case.dtype).fill_(0.5)
        for shape, strides in (case.first, case.second)
    )
    kernels = {
        STRAIGHT: functools.partial(_repeated, a, b),
        TURNED: functools.partial(_repeated, b.t(), a.t()),
    }
    taken = choosing.current().fastest(case, STRAIGHT, kernels, to_measure=True)
    return taken is kernels[TURNED]


def _case(a: Tensor, b: Tensor) -> LoopProduct:
    return LoopProduct(_laid_out(a), _laid_out(b), a.dtype, torch.get_num_threads())


def _laid_out(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(x.shape), tuple(x.stride())


def _repeated(a: Tensor, b: Tensor) -> Tensor:
    for _ in range(REPEATED):
        product = a @ b
    return product

"""Arithmetic on parameters, and walks over trees.

Parameters (`Params`) are a flat dict of tensors of any shapes. Functions of two of them want the
same keys, and the same shapes under each key. None but `written` changes what it is given.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name: the inner or the outer ones, and all that has their names and shapes."""
Scalar = float | Tensor
Tree = Any  # a tensor, None, or a dict or tuple of trees


def axpy(a: Scalar, x: Params, y: Params) -> Params:
    """a * x + y, with the keys and shapes of `y`. `a` is a number or a 0-dim tensor."""
    return {name: a * x[name] + value for name, value in y.items()}


def scale(a: Scalar, x: Params) -> Params:
    return {name: a * value for name, value in x.items()}


def dot(x: Params, y: Params) -> Tensor:
    """The inner product, summed over all entries. 0-dim."""
    return torch.stack([(value * y[name]).sum() for name, value in x.items()]).sum()


def norm(x: Params) -> Tensor:
    """The Euclidean norm of all entries together. 0-dim."""
    return dot(x, x).sqrt()


def masked(x: Params, mask: Params | None) -> Params:
    """`x` where the mask is 1, and 0 where it is 0; all of `x` where there is no mask."""
    return x if mask is None else {name: value * mask[name] for name, value in x.items()}


def zeros_like(x: Params) -> Params:
    return {name: torch.zeros_like(value) for name, value in x.items()}


def size(x: Params) -> int:
    """The number of entries."""
    return sum(value.numel() for value in x.values())


def prefixed(prefix: str, x: Params) -> Params:
    """`x` with `prefix` before every name."""
    return {prefix + name: value for name, value in x.items()}


def under(prefix: str, x: Params) -> Params:
    """The entries of `x` whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): value for n, value in x.items() if n.startswith(prefix)}


def ravel(x: Params) -> tuple[Tensor, Callable[[Tensor], Params]]:
    """The entries of `x` as one vector [size(x)], and the function that undoes it.

    That function takes any vector of this length, of any type, and returns a dict with the keys and
    shapes of `x`.
    """
    shapes = {name: value.shape for name, value in x.items()}

    def unravel(vector: Tensor) -> Params:
        pieces = torch.split(vector, [shape.numel() for shape in shapes.values()])
        return {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }

    return torch.cat([value.reshape(-1) for value in x.values()]), unravel


def map_leaves(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """`tree` with fn(x, ...) in place of each tensor x; ... are the tensors of `others` there.

    Args:
        fn: Takes one tensor of each tree and returns a tensor of any shape.
        tree: Nested dicts and tuples of tensors and None. None stays None.
        others: Trees of the same nesting and the same keys.

    Returns:
        Dicts with the same keys and tuples of the same length; a named tuple becomes a plain one.

    Raises:
        KeyError: Another tree lacks a key.
        ValueError: Another tree has a tuple of another length.
    """
    if isinstance(tree, Tensor):
        return fn(tree, *others)
    if isinstance(tree, dict):
        return {
            key: map_leaves(fn, value, *(other[key] for other in others))
            for key, value in tree.items()
        }
    if tree is None:
        return None
    return tuple(map_leaves(fn, *parts) for parts in zip(tree, *others, strict=True))


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of `tree`, in the order of `map_leaves`."""
    if isinstance(tree, Tensor):
        return [tree]
    if tree is None:
        return []
    values = tree.values() if isinstance(tree, dict) else tree
    return [leaf for value in values for leaf in leaves(value)]


def written(x: Tensor, new: Tensor) -> Tensor:
    """`x` in its own memory with the values of `new`, which may be `x` itself."""
    return x if x is new else x.copy_(new)


def rebuilt(tree: Tree, leaves: Iterable[Tensor]) -> Tree:
    """A tree of the structure of `tree` with other tensors, in the order of `leaves`."""
    supply = iter(leaves)
    return map_leaves(lambda _: next(supply), tree)


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """The entries of `x` that are in memory, where it repeats along the dimensions `like` does."""
    return x[tuple(slice(1) if stride == 0 else slice(None) for stride in like.stride())]


def copied(x: Tensor) -> Tensor:
    """A tensor of its own with the values of `x`, which repeats where `x` does: full batches do."""
    return narrow(x, x).clone().expand(x.shape)

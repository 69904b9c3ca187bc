"""The derivatives of inner field and outer loss at one point, each on a minibatch of its own.

Everywhere `inner` is z and `outer` is lambda, of one inner problem: trees of any shapes. Vectors v
have the shapes of z. So do d_z f, d_z F and H v; d_lambda F and (d_lambda d_z f)^T v have those of
lambda. Where a problem has an inner field G in place of d_z f, H v is (d_z G)^T v: all products are
pullbacks, and none takes H for symmetric.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.problem import Batch, Problem, inner_field
from bilevel_cli.core.trees import Params


def inner_slope(
    problem: Problem, inner: Params, outer: Params, batch: Batch
) -> tuple[Params, Callable[[Params], tuple[Params, Params]]]:
    """d_z f, and the function from v to (H v, (d_lambda d_z f)^T v): both from the same graph."""

    def slope(inner: Params, outer: Params) -> Params:
        return inner_field(problem, inner, outer, batch)

    gradient, pullback = autodiff.vjp(slope, inner, outer)
    return gradient, pullback


def outer_slope(
    problem: Problem, inner: Params, outer: Params, batch: Batch
) -> tuple[Params, Params, Tensor]:
    """d_z F, d_lambda F and F itself, 0-dim, by one backward pass."""
    both, loss = autodiff.grad_and_value(problem.outer_loss, (0, 1))(inner, outer, batch)
    return *both, loss


def relative_residual(residual: Params, rhs: Params) -> Tensor:
    """|residual| / |rhs|, and |residual| where the right-hand side is zero. 0-dim."""
    scale = trees.norm(rhs)
    return trees.norm(residual) / torch.where(scale > 0, scale, 1.0)


def hessian_product(
    problem: Problem, inner: Params, outer: Params, batch: Batch, vector: Params
) -> Params:
    """H v, from a graph in z alone."""

    def slope(inner: Params) -> Params:
        return inner_field(problem, inner, outer, batch)

    _, pullback = autodiff.vjp(slope, inner)
    return pullback(vector)[0]


def cross_product(
    problem: Problem, inner: Params, outer: Params, batch: Batch, vector: Params
) -> Params:
    """(d_lambda d_z f)^T v, from a graph in lambda alone."""

    def slope(outer: Params) -> Params:
        return inner_field(problem, inner, outer, batch)

    _, pullback = autodiff.vjp(slope, outer)
    return pullback(vector)[0]

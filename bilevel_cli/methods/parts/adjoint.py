"""The linear system of the adjoint, where the inner field vanishes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, follows_loss, inner_field
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver, Matvec, Nonsymmetric


class Adjoint(NamedTuple):
    """How the inner solution responds, along a vector b of its shapes.

    Attributes:
        vector: v, where H v = b approximately, of the shapes of z.
        response: -(dz*/dlambda)^T b = (d_lambda d_z f)^T v, of the shapes of the outer parameters.
        metrics: The relative residual |H v - b| / |b| as `adjoint_residual`, and what the linear
            solver reports.
    """

    vector: Params
    response: Params
    metrics: dict[str, Tensor]


def adjoint(
    loop: InnerLoop,
    inner: Params,
    outer: Params,
    batch: Batch,
    target: Params,
    solver: LinearSolver,
    guess: Params | None = None,
    curvature: Callable[[Params], Params] | None = None,
) -> Adjoint:
    """Solves H v = b, with H = d_z^2 f, and takes the product of v with the cross derivative.

    Where the problem has an inner field in place of d_z f, H is its transposed Jacobian. Where the
    solver of the inner loop keeps z in a set, H and b are those of the entries that the set lets
    move, and v is zero for the others. All products are taken from one retained graph of the inner
    field. It takes one inner gradient, the products of the linear solver, one for the residual, and
    one with the cross derivative.

    Args:
        loop: The inner loop, for its problem and its set.
        inner: z, where all derivatives are taken.
        outer: The outer parameters.
        batch: The minibatch of f.
        target: b, of the shapes of z.
        solver: Solves for v, with its random numbers filled in.
        guess: Where an iterative solver begins, of the shapes of z; None for zero.
        curvature: The product with another matrix in place of H, of and to the shapes of z.
    """

    def field(inner: Params, outer: Params) -> Params:
        return inner_field(loop.problem, inner, outer, batch)

    _, pullback = autodiff.vjp(field, inner, outer)

    def hessian(vector: Params) -> Params:
        product: Params = pullback(vector, (0,))[0]
        return product

    bent = curvature or hessian
    free = loop.free(inner)
    rhs, unravel = trees.ravel(trees.masked(target, free))

    def matvec(vector: Tensor) -> Tensor:
        asked = unravel(vector)
        product = trees.masked(bent(trees.masked(asked, free)), free)
        if free is not None:  # the identity for held entries, so that H can be inverted
            product = {n: v + (1 - free[n]) * asked[n] for n, v in product.items()}
        return trees.ravel(product)[0]

    matrix: Matvec = matvec if follows_loss(loop.problem) else Nonsymmetric(matvec)
    begun = torch.zeros_like(rhs) if guess is None else trees.ravel(trees.masked(guess, free))[0]
    solution, ended = solver.solve(matrix, rhs, begun)
    scale = rhs.norm()
    residual = (matvec(solution) - rhs).norm() / torch.where(scale > 0, scale, 1.0)
    # A Hessian of zeros, which has no graph, makes zero even of what is not a number.
    residual = residual.masked_fill(solution.isnan().any(), math.nan)
    found = unravel(solution)
    return Adjoint(found, pullback(found, (1,))[0], {"adjoint_residual": residual, **ended})

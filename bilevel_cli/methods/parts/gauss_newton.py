"""Products with the Gauss-Newton matrix of an inner problem that says its model outputs."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.problem import Batch, Problem, has_outputs
from bilevel_cli.core.trees import Params, Tree


def gauss_newton(
    problem: Problem, inner: Params, outer: Params, batch: Batch
) -> Callable[[Params], Params]:
    """The function from v to G v, with the Gauss-Newton matrix G of the inner loss at z.

    The inner loss is f(z) = h(o(z), z), with the outputs o of a model and a loss h of them, which
    sees z itself for penalties. Then

        G v = J' w + w_z,    (w, w_z) = h''(o, z) (J v, v),    J = do/dz,

    is the Hessian of f without the curvature of o (Schraudolph, 2002). It is the Hessian itself
    where o is linear in z, and positive semi-definite where h is convex in (o, z) together,
    whatever o is. Such are cross-entropy of logits, squared errors, and L2 penalties.

    A product takes two passes back through the model, as one with the Hessian does, and counts as
    one. Besides, o and both of its linearisations are computed once.

    Args:
        problem: Has outputs (`core.problem.has_outputs`).
        inner: z.
        outer: lambda.
        batch: A minibatch of the inner loss.

    Returns:
        A function from and to trees of the keys and shapes of z.
    """
    assert has_outputs(problem)

    def outputs(z: Params) -> Tree:
        return problem.inner_outputs(z, outer, batch)

    def loss(o: Tree, z: Params) -> Tensor:
        return problem.loss_of_outputs(o, z, outer, batch)

    found, back = autodiff.vjp(outputs, inner)
    # u to J'u is linear, so its derivative, transposed, is v to J v wherever it is taken.
    zeros = trees.map_leaves(torch.zeros_like, found)
    _, forth = autodiff.vjp(lambda u: back(u)[0], zeros)
    _, bend = autodiff.vjp(autodiff.grad(loss, (0, 1)), found, inner)

    def product(v: Params) -> Params:
        by_outputs, by_inner = bend((forth(v)[0], v))
        return trees.axpy(1.0, back(by_outputs)[0], by_inner)

    return product

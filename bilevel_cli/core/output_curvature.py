"""The Gauss-Newton matrix of an inner loss, dense and by central differences: a reference."""

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.claim import NoSolution, Trial
from bilevel_cli.core.problem import has_outputs
from bilevel_cli.core.references import LARGEST, STEP
from bilevel_cli.core.trees import Params, Tree


def gauss_newton(trial: Trial, inner: Params) -> Tensor:
    """J' h'' J at `inner`, [n, n], where f(z) = h(c(z)) and c(z) = (o(z), z) (`core.problem`).

    Columns of J are central differences of the outputs, and those of h'' J of the gradient of h.

    Raises:
        NoSolution: There are more than `LARGEST` inner parameters.
    """
    flat, unravel = trees.ravel(inner)
    if len(flat) > LARGEST:
        raise NoSolution(f"{len(flat)} inner parameters are too many for a dense matrix")
    problem, outer, batch = trial.loop.problem, trial.outer, trial.data.inner_at(-1)
    assert has_outputs(problem)

    def outputs(vector: Tensor) -> Tree:
        return problem.inner_outputs(unravel(vector), outer, batch)

    def loss(o: Tree, z: Params) -> Tensor:
        return problem.loss_of_outputs(o, z, outer, batch)

    at = outputs(flat)

    def vector_of(tree: Tree) -> Tensor:
        return torch.cat([leaf.reshape(-1) for leaf in trees.leaves(tree)])

    def slope(point: Tensor) -> Tensor:
        leaves = torch.split(point[: -len(flat)], [leaf.numel() for leaf in trees.leaves(at)])
        shaped = [x.reshape(leaf.shape) for x, leaf in zip(leaves, trees.leaves(at), strict=True)]
        slopes = autodiff.grad(loss, (0, 1))(
            trees.rebuilt(at, shaped), unravel(point[-len(flat) :])
        )
        return vector_of(slopes)

    axes = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    tangents = [
        (vector_of(outputs(flat + STEP * axis)) - vector_of(outputs(flat - STEP * axis)))
        / (2 * STEP)
        for axis in axes
    ]
    jacobian = torch.cat([torch.stack(tangents, dim=1), axes])
    centre = torch.cat([vector_of(at), flat])
    bent = [
        (slope(centre + STEP * column) - slope(centre - STEP * column)) / (2 * STEP)
        for column in jacobian.T
    ]
    matrix = jacobian.T @ torch.stack(bent, dim=1)
    return (matrix + matrix.T) / 2

"""A step size for an inner solver, from the curvature of the inner loss."""

import math

import torch

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.problem import Batch, Problem
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError

PRODUCTS = 20  # with the Hessian; the estimate is below L, by a fifth at most where it was tried


def safe_step(problem: Problem, inner: Params, outer: Params, batch: Batch) -> float:
    """1 / L, where L is the largest absolute eigenvalue of the Hessian of f in z at `inner`.

    L is found by the power method, begun at one random vector that is always the same. Gradient
    descent cannot diverge with a step of up to 2 / L, while the curvature stays what it is here.

    Args:
        problem: The problem that the solver minimises.
        inner: z.
        outer: lambda.
        batch: Of the inner loss.

    Raises:
        UsageError: There is no curvature there.
    """

    def slope(inner: Params) -> Params:
        return autodiff.grad(problem.inner_loss)(inner, outer, batch)

    _, pullback = autodiff.vjp(slope, inner)
    generator = torch.Generator().manual_seed(0)
    vector = {
        name: torch.randn(value.shape, generator=generator).to(value)
        for name, value in inner.items()
    }
    curvature = trees.norm(vector)
    for _ in range(PRODUCTS):
        vector = pullback(trees.scale(1 / curvature, vector))[0]
        curvature = trees.norm(vector)
    found = float(curvature)
    if not (math.isfinite(found) and found > 0):
        raise UsageError(
            "hypergradient takes 1 / L for a step size, where L is the curvature of inner_loss at "
            f"inner, got L={found}. Give the step size of the inner solver: lr=0.1."
        )
    return 1 / found

"""Problems and estimates whose values were computed by hand."""

import torch
from problems import Plane
from torch import Tensor

from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.methods.implicit import Implicit

PLANE = Plane()
OUTER = {"x": Plane.x}

# Steps of gradient descent at lr 0.1 from (0, 1), and the hypergradient of them all.
UNROLLED = {1: (0.82, 1.21), 3: (1.221425, 1.514025), 5: (1.4229143125, 1.710774625)}

# Of five such steps: those that are differentiated, and the hypergradient of them alone.
TRUNCATED = {1: (0.850825, 1.228375), 2: (1.0841575, 1.39883), 3: (1.2412025, 1.52890625)}


def implicit(solver: LinearSolver) -> Implicit:
    return Implicit(solver, warm_adjoint=False, curvature="hessian", clip=None)


def assert_equal(found: Tensor, expected: float | tuple[float, ...]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-9, atol=1e-12)


class OneDimensionalMaml:
    """Support loss (w - 3)^2 and query loss (w + 1)^2 / 2, from a learned start theta."""

    def __init__(self, proximal: float = 0.0) -> None:
        self.proximal = proximal

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return {"w": outer["init.w"]}

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        drift = inner["w"] - outer["init.w"]
        return (inner["w"] - 3) ** 2 + 0.5 * self.proximal * drift**2

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["w"] + 1) ** 2

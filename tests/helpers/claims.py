"""Holds one estimate to the claim of its method."""

from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.claim import Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.starts.cold import Cold


class Logistic:
    """Ridge-penalised logistic regression with a weight for every example: not quadratic."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = (
            torch.randn(size, generator=generator, dtype=torch.float64) for size in ((12, 4), (12,))
        )

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        margins = self.y.sign() * (self.x @ inner["w"])
        losses = torch.nn.functional.softplus(-margins)
        return (outer["weights"].sigmoid() * losses).mean() + 0.05 * inner["w"].square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        # Depends on the outer parameters directly too.
        direct = 0.1 * outer["weights"].square().mean()
        return 0.5 * (inner["w"] - 1).square().sum() + direct

    def data(self, steps: int) -> StepData:
        return StepData({"w": torch.zeros(4)}, {"unused": torch.zeros(steps)}, {})

    def outer(self) -> Params:
        return {"weights": torch.linspace(-1, 1, 12)}


def held_to_its_claim(
    method: Hypergradient[Any],
    problem: Any,
    data: StepData,
    outer: Params,
    solver: InnerSolver[Any],
    start: Start | None = None,
) -> None:
    """Asserts that the second estimate of a run is what the method claims."""
    loop = InnerLoop(problem, solver, start or Cold())
    outer = outer | solver.outer_init({})
    carry = method.init(outer, loop.fresh(outer, data))
    carry = method.estimate(loop, outer, data, carry).carry
    found = method.estimate(loop, outer, data, carry)
    last = found.carry["inner"]["inner"]
    claim = method.claim()
    expected = claim.reference(Trial(loop, outer, data, carry, last))
    assert found.grad.keys() == expected.keys() == outer.keys()
    gap = trees.axpy(-1.0, expected, found.grad)
    assert isinstance(claim.tolerance, float)
    assert trees.norm(gap) <= claim.tolerance * trees.norm(expected)

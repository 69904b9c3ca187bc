"""Implicit differentiation of an inner problem that is tied to its start."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import Batch, ProblemWrapper, StepData
from bilevel_cli.core.requirements import an_inner_loss
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.methods.implicit import Implicit, ImplicitCarry


@dataclass(frozen=True)
class ImplicitMaml(Implicit):
    """Implicit MAML (Rajeswaran et al., 2019, arXiv:1909.04630).

    The inner problem, f + strength / 2 * |z - z_0|^2, stays near the start z_0(lambda) of its inner
    loop, and is differentiated implicitly. So a learned start has a hypergradient that does not
    depend on the inner steps: strength * (H + strength * I)^-1 d_z F, where H = d_z^2 f. Outer
    parameters of the losses have that of the proximal problem. A start that does not depend on the
    outer parameters, such as `start=warm`, is a constant.

    The task's evaluation adapts by the inner loop as it is, without the proximal term.

    Args:
        linear_solver: Solves for the adjoint v.
        warm_adjoint: Begin each solve at the adjoint of the last outer step, not at zero.
        curvature: As `Implicit`, of the proximal problem.
        strength: Weight of the proximal term, > 0. The inner loop contracts where its step size is
            below 2 / (largest eigenvalue of H + strength).
    """

    strength: float

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise ValueError(
                f"ImplicitMaml needs a finite strength > 0, got strength={self.strength}. "
                "Use method=cg for an inner problem without a proximal term."
            )
        super().__post_init__()

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        an_inner_loss("ImplicitMaml", loop, outer, data)  # the proximal problem always has one
        super().check(self._tied(loop, data, loop.fresh(outer, data)), outer, data)

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: ImplicitCarry
    ) -> Estimate:
        return super().estimate(self._tied(loop, data, carry["inner"]), outer, data, carry)

    def claim(self) -> Claim:
        claim = super().claim()
        return claim._replace(text=f"{claim.text}, of the proximal inner problem")

    def _reference(self, trial: Trial) -> Params:
        loop = self._tied(trial.loop, trial.data, trial.carry["inner"])
        return super()._reference(trial._replace(loop=loop))

    def _tied(self, loop: InnerLoop, data: StepData, previous: SolverState) -> InnerLoop:
        def start(outer: Params) -> Params:
            return loop.begin(outer, data, previous)["inner"]

        return replace(loop, problem=_Proximal(loop.problem, self.strength, start))


@dataclass(frozen=True)
class _Proximal(ProblemWrapper):
    """f + strength / 2 * |z - start(lambda)|^2, and F."""

    strength: float
    start: Callable[[Params], Params]

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.base.inner_loss(inner, outer, batch) + self._tie(inner, outer)

    @property
    def inner_outputs(self) -> Any:
        return self.base.inner_outputs  # type: ignore[attr-defined]  # which not all problems have

    def loss_of_outputs(self, outputs: Tree, inner: Params, outer: Params, batch: Batch) -> Tensor:
        base: Any = self.base
        loss: Tensor = base.loss_of_outputs(outputs, inner, outer, batch)
        return loss + self._tie(inner, outer)

    def _tie(self, inner: Params, outer: Params) -> Tensor:
        drift = trees.axpy(-1.0, self.start(outer), inner)
        return 0.5 * self.strength * trees.dot(drift, drift)

"""Bilevel optimization made easy: descent on F that keeps the value gap falling."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_MINIMISER, no_constraint
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Bome(Hypergradient[Carry]):
    """BOME (Liu, Ye et al., 2022, arXiv:2209.08709).

    The value gap is q(y, lambda) = f(y, lambda) - f(y_K, lambda), where y_K is the end of an inner
    loop from y and counts as a constant. Then y and lambda move together along

        d = grad F + multiplier * grad q,
        multiplier = max(0, eta - <grad F, grad q> / |grad q|^2).

    Among all directions along which q falls at a rate <grad q, d> >= eta |grad q|^2, this is the
    nearest to grad F. The estimate is the part of d in lambda; y takes one step of the inner solver
    along the other part. Where y comes to rest, the estimate is the gradient in lambda of
    F + multiplier * q, which on strongly convex problems misses the hypergradient by
    O(1 / multiplier).

    The start is not differentiated: its outer parameters are refused. Reports the gap q and
    the multiplier, which is 0 where q has no gradient.

    Cost: K + 2 inner gradients, and no second derivative.

    Args:
        eta: How fast the gap must fall, >= 0. The paper takes 0.5.
    """

    eta: float

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(
                f"Bome needs a finite eta >= 0, got eta={self.eta}. Set method.eta, e.g. 0.5."
            )

    remembers = True  # one step of y per estimate leads nowhere from a fresh start

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = (*AT_A_MINIMISER, no_constraint)

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        # Where the gap falls by itself, the estimate does not look at f.
        return super().zero_tells(row, step) and row["multiplier"] != 0

    follows_inner_loss = False  # y moves along F and f

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        problem, batch = loop.problem, data.inner_at(-1)
        state = loop.begin(outer, data, carry["inner"])
        y = state["inner"]
        # With a fresh memory of the solver: the one in `state` belongs to the steps along d.
        best = loop.run(loop.solver.init(y), outer, data)["inner"]

        def gap(y: Params, outer: Params) -> Tensor:
            return problem.inner_loss(y, outer, batch) - problem.inner_loss(best, outer, batch)

        upper = autodiff.grad(problem.outer_loss, (0, 1))(y, outer, data.outer)
        lower, value = autodiff.grad_and_value(gap, (0, 1))(y, outer)
        norm2 = _dot(lower, lower)
        some = norm2 > 0
        slack = self.eta - _dot(upper, lower) / torch.where(some, norm2, 1.0)
        multiplier = torch.where(some, slack.clamp(min=0.0), 0.0)
        along, grad = (
            trees.axpy(multiplier, low, up) for up, low in zip(upper, lower, strict=True)
        )
        state = loop.solver.step(FixedOracle(outer, along), state)
        loss = problem.outer_loss(state["inner"], outer, data.outer)
        metrics = {"inner_gap": value, "multiplier": multiplier}
        return Estimate(grad, loss, {"inner": state}, metrics)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 2, 0)

    def claim(self) -> Claim:
        """The part in lambda of the projection of grad F onto the directions that close the gap."""

        def reference(trial: Trial) -> Params:
            problem, data = trial.loop.problem, trial.data
            y = trial.carry["inner"]["inner"]
            # As in the estimate, with a fresh memory of the solver: momentum would lead elsewhere.
            begun = trial.loop.solver.init(y)
            best = trial.loop.run(begun, trial.outer, data)["inner"]
            _, unravel = trees.ravel(y)
            size = trees.size(y)

            def split(both: Params) -> tuple[Params, Params]:
                return unravel(both["point"][:size]), restore(both["point"][size:])

            _, restore = trees.ravel(trial.outer)
            point = torch.cat([trees.ravel(y)[0], trees.ravel(trial.outer)[0]])

            def upper_loss(both: Params) -> Tensor:
                return problem.outer_loss(*split(both), data.outer)

            def gap(both: Params) -> Tensor:
                inner, outer = split(both)
                batch = data.inner_at(-1)
                return problem.inner_loss(inner, outer, batch) - problem.inner_loss(
                    best, outer, batch
                )

            upper = references.differenced(upper_loss, {"point": point})["point"]
            lower = references.differenced(gap, {"point": point})["point"]
            short = self.eta * lower @ lower - lower @ upper  # by how much q falls too slowly
            nearest = upper + short.clamp(min=0.0) / (lower @ lower) * lower
            return restore(nearest[size:])

        # After some estimates: at the first one, the direction may not have to be turned.
        return Claim("grad F, turned until the value gap falls", reference, repeats=5)


def _dot(left: tuple[Params, Params], right: tuple[Params, Params]) -> Tensor:
    return trees.dot(left[0], right[0]) + trees.dot(left[1], right[1])

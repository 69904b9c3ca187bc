"""Penalty-based bilevel gradient descent on the squared inner gradient."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.oracle import MinibatchOracle
from bilevel_cli.core.problem import Batch, Problem, StepData, inner_field
from bilevel_cli.core.requirements import AT_A_SOLUTION, no_constraint
from bilevel_cli.core.schedules import Ramp
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params, Scalar


class SlopeCarry(Carry):
    count: Tensor  # outer steps taken


@dataclass(frozen=True)
class GPbgd(Hypergradient[SlopeCarry]):
    """G-PBGD: descent on F + gamma |d_z f|^2 (Shen & Chen, 2023, arXiv:2302.05185).

    The inner loop takes y down the penalised loss; the estimate is its gradient there,

        d_lambda [ F(y, lambda) + gamma |d_z f(y, lambda)|^2 ],    y constant,

    which at a converged y misses the hypergradient by O(1 / gamma) where d_z^2 f is invertible. An
    inner field G in place of d_z f serves as well, since no value of f is asked for.
    Elsewhere the penalty is 0 at every stationary point of f, at saddles too.

    The penalty's own gradient would allow y no step longer than the square of one that serves f. So
    y steps along step_size / (2 gamma) times that gradient: step_size (H d_z f) plus the share of
    F. Where step_size is that of the inner solver, step_size (H d_z f) is the difference of two
    successive inner gradients. Along an eigenvector where gradient descent on f contracts by
    1 - lr h, these steps contract by 1 - (lr h)^2.

    The start is not differentiated: its outer parameters are refused. Reports |d_z f|.

    Cost: K + 1 inner gradients and K + 1 second-order products.

    Args:
        gamma: The multiplier, as a function of the outer step.
        step_size: What scales products with H to the size of an inner gradient, of the order of
            1 / (largest eigenvalue of H). Usually the learning rate of the inner solver.
    """

    gamma: Ramp
    step_size: float

    def __post_init__(self) -> None:
        if not 0 < self.step_size < math.inf:
            raise ValueError(
                f"GPbgd needs a finite step_size > 0, got step_size={self.step_size}. "
                "Set method.step_size to the learning rate of the inner solver."
            )

    remembers = True

    def init(self, outer: Params, state: SolverState) -> SlopeCarry:
        return {"inner": state, "count": counter(state["inner"], 0.0)}

    requires = (*AT_A_SOLUTION, no_constraint)
    follows_inner_loss = False  # y moves along F and |d_z f|^2

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: SlopeCarry
    ) -> Estimate:
        problem, gamma = loop.problem, self.gamma(carry["count"])
        state = loop.begin(outer, data, carry["inner"])
        for t in range(data.num_steps):
            oracle = _Penalised(problem, outer, data.inner_at(t), data.outer, gamma, self.step_size)
            state = loop.solver.step(oracle, state)

        def penalised(outer: Params) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            loss = problem.outer_loss(state["inner"], outer, data.outer)
            slope = squared_slope(problem, state["inner"], outer, data.inner_at(-1))
            return loss + gamma * slope, (loss, slope)

        grad, (_, (loss, slope)) = autodiff.grad_and_value(penalised, has_aux=True)(outer)
        following: SlopeCarry = {"inner": state, "count": carry["count"] + 1}
        metrics = {"inner_grad_norm": slope.sqrt(), "multiplier": gamma}
        return Estimate(grad, loss, following, metrics)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + 1, num_steps + 1)

    def claim(self) -> Claim:
        """The gradient of the penalised loss at the last inner iterate."""

        def reference(trial: Trial) -> Params:
            problem, data = trial.loop.problem, trial.data
            gamma = self.gamma(trial.carry["count"])

            def penalised(outer: Params) -> Tensor:
                slope = squared_slope(problem, trial.last, outer, data.inner_at(-1))
                return problem.outer_loss(trial.last, outer, data.outer) + gamma * slope

            return references.differenced(penalised, trial.outer)

        return Claim("d/dlambda [F + gamma |d_z f|^2] at z_K", reference, repeats=5)


def squared_slope(problem: Problem, inner: Params, outer: Params, batch: Batch) -> Tensor:
    """|d_z f|^2, differentiable in both arguments. 0-dim."""
    slope = inner_field(problem, inner, outer, batch)
    return trees.dot(slope, slope)


@dataclass(frozen=True)
class _Penalised(MinibatchOracle):
    gamma: Scalar
    step_size: float

    def inner_grad(self, inner: Params) -> Params:
        def penalised(inner: Params) -> Tensor:
            slope = squared_slope(self.problem, inner, self.outer, self.inner_batch)
            return self.problem.outer_loss(inner, self.outer, self.outer_batch) + self.gamma * slope

        return trees.scale(self.step_size / (2 * self.gamma), autodiff.grad(penalised)(inner))

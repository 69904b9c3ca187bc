"""Backpropagation through the inner steps, and implicit differentiation of where they began."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import Batch, ProblemWrapper, StepData
from bilevel_cli.core.requirements import a_minimiser
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.methods.parts.adjoint import adjoint
from bilevel_cli.methods.parts.unroll import Steps
from bilevel_cli.methods.reverse import Reverse


@dataclass(frozen=True)
class ReverseImplicit(Hypergradient[Carry]):
    """Reverse mode that does not forget that a warm start depends on the outer parameters.

    With `start=warm` the inner loop begins where the last one stopped, and reverse mode takes that
    point for a constant. What it leaves out is (dz_0/dlambda)^T w, where

        w = (dz_K/dz_0)^T d_z F.

    If z_0 is near a minimiser of f, it moves as the minimiser does:

        dF/dlambda = (reverse mode) - (d_lambda d_z f)^T v,    H v = w,    H = d_z^2 f,

    with both derivatives of f at z_0, on the first inner minibatch. At a fixed point of the inner
    loop that is the whole implicit hypergradient for any number of inner steps, even one; reverse
    mode alone is Neumann's series of K terms there. The linear system is easier than that of an
    implicit method: w falls with the inner steps, and so does the part that a solver gets wrong.

    Arbel & Mairal (2022, arXiv:2207.04888) show that unrolling from a warm start has such an error,
    and that a correction removes it; this form of the correction is ours. Only the start's
    dependence on the last inner iterate is corrected: with `start=cold` or `start=learned` the
    estimate is that of reverse mode, and members of a pool are constants.

    Reports the relative residual |H v - w| / |w|, and what the linear solver reports.

    Memory is that of reverse mode, whose `segment` it has. Cost: K + 1 inner gradients, and those
    of steps that are run again; a product for each step, the products of the linear solver, one for
    the residual, and one with the cross derivative.

    Args:
        linear_solver: Solves for the adjoint v.
        segment: Inner steps to hold in memory at once. None for what the memory budget holds.
    """

    linear_solver: LinearSolver
    segment: int | None

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment < 1:
            raise ValueError(
                f"ReverseImplicit needs segment >= 1 inner steps, got segment={self.segment}. "
                "Use segment=null for the whole inner loop."
            )

    def holds(self, sizes: Sizes) -> Parts:
        return (*self._steps().holds(sizes), *self.linear_solver.holds(sizes.inner))

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return self.linear_solver.draw(generator)

    requires = (a_minimiser,)

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return self.linear_solver.doubts(row)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        previous: Any = carry["inner"]
        steps = Steps(loop, outer, data)
        begun = loop.begin(outer, data, previous)
        loss, state, slopes = steps.backward(begun, 0, data.num_steps, self.segment)
        unrolled = steps.to_start(previous, slopes)

        def begin(inner: Params) -> SolverState:
            return loop.begin(outer, data, {**previous, "inner": inner})

        _, pullback = autodiff.vjp(begin, previous["inner"], once=True)
        # w, as far as the start follows the last iterate.
        (target,) = pullback(slopes[0])
        solver = self.linear_solver.given(data.noise)
        tail = adjoint(loop, previous["inner"], outer, data.inner_at(0), target, solver)
        counts = steps.metrics() if self.segment is None else {}  # which no setting tells
        return Estimate(
            grad=trees.axpy(-1.0, tail.response, unrolled),
            loss=loss,
            carry={"inner": state},
            metrics={**tail.metrics, **counts},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        steps = self._steps().cost(num_steps, outer, inner, metrics)
        # Besides the solver's: the residual, and the product with the cross derivative.
        products = self.linear_solver.products(trees.size(inner)) + 2
        return Cost(steps.inner_grads + 1, steps.hvps + products)

    def claim(self) -> Claim:
        name = type(self.linear_solver).__name__
        text = f"dF(z_K)/dlambda, z_0 moving as a minimiser, with {name} for the inverse"
        return Claim(text, self._reference)

    def _steps(self) -> Reverse:
        """The method that differentiates the same steps alone."""
        return Reverse(window=None, segment=self.segment)

    def _reference(self, trial: Trial) -> Params:
        loop, outer, data = trial.loop, trial.outer, trial.data
        before: Any = trial.carry["inner"]
        inner: Params = before["inner"]

        def behind(inner: Params) -> Tensor:
            state = loop.begin(outer, data, {**before, "inner": inner})
            after = loop.run(state, outer, data)["inner"]
            return loop.problem.outer_loss(after, outer, data.outer)

        slope = references.differenced(behind, inner)
        rhs = trees.ravel(trees.masked(slope, loop.free(inner)))[0]
        solver = self.linear_solver.given(data.noise)
        along = trial._replace(loop=replace(loop, problem=_Along(loop.problem, slope)))
        tail = references.implicit_at(along, inner, lambda h: solver.inverse(h, rhs, 1))
        return trees.axpy(1.0, tail, references.unrolled(trial))


@dataclass(frozen=True)
class _Along(ProblemWrapper):
    """f, and in place of F the inner product of z with a vector: its response is that of z."""

    direction: Params

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.base.inner_loss(inner, outer, batch)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return trees.dot(self.direction, inner)

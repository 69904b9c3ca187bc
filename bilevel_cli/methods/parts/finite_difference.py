"""What methods that take no second derivatives share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.oracle import OracleWrapper
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params


def check_radius(who: str, radius: float) -> None:
    """Raises ValueError unless `radius` is usable."""
    if not 0 < radius < math.inf:
        raise ValueError(f"{who} needs a finite radius > 0, got radius={radius}. Try 0.01.")


def cross_product(
    problem: Problem, inner: Params, outer: Params, batch: Batch, direction: Params, radius: float
) -> Params:
    """(d_lambda d_z f)^T direction, by a central difference of d_lambda f.

        [d_lambda f(z + eps * direction) - d_lambda f(z - eps * direction)] / (2 eps)

    with eps = radius / |direction|. It takes two gradients of f in lambda. It is exact where these
    are linear or quadratic in z, and off by O(radius^2) elsewhere.

    Args:
        problem: The problem.
        inner: z.
        outer: The outer parameters.
        batch: The minibatch of f.
        direction: A vector of the shapes of z.
        radius: The distance by which z is moved to either side.

    Returns:
        A tree of the shapes of `outer`.
    """
    length = trees.norm(direction)
    eps = radius / torch.where(length > 0, length, 1.0)
    ahead, behind = (
        autodiff.grad(problem.inner_loss, 1)(trees.axpy(side, direction, inner), outer, batch)
        for side in (eps, -eps)
    )
    return trees.scale(1 / (2 * eps), trees.axpy(-1.0, behind, ahead))


@dataclass(frozen=True)
class LastStep:
    """The last inner step, as a function of the inner gradient that it takes.

    Attributes:
        state: The solver's state after the step.
        asked: Where the solver took the inner gradient, in the shapes of z.
        pullback: From (v, numbers) to the cotangents of the gradient (number 0) and of the outer
            parameters (number 1), where v is a cotangent of the inner parameters after the step.
            The state before the step is a constant. The outer parameters act through the solver
            only, such as a learned step size.
    """

    state: SolverState
    asked: Params
    pullback: Callable[[Params, tuple[int, ...]], tuple[Params, ...]]


def last_step(loop: InnerLoop, outer: Params, data: StepData, previous: SolverState) -> LastStep:
    """Runs the inner loop. Takes as many inner gradients as there are steps."""
    number = data.num_steps - 1
    state = loop.run(loop.begin(outer, data, previous), outer, data, last=number)
    watching = _Watching(loop.oracle(outer, data, number), [])
    after = loop.solver.step(watching, state)
    ((asked, gradient),) = watching.seen

    def update(gradient: Params, outer: Params) -> Params:
        oracle = _Answering(loop.oracle(outer, data, number), gradient)
        return loop.solver.step(oracle, state)["inner"]

    return LastStep(after, asked, autodiff.vjp(update, gradient, outer)[1])


@dataclass(frozen=True)
class _Watching(OracleWrapper):
    """Remembers where it was asked for the inner gradient, and its answer."""

    seen: list[Any]

    def inner_grad(self, inner: Params) -> Params:
        gradient = super().inner_grad(inner)
        self.seen.append((inner, gradient))
        return gradient


@dataclass(frozen=True)
class _Answering(OracleWrapper):
    """Answers with the given inner gradient."""

    gradient: Params

    def inner_grad(self, inner: Params) -> Params:
        del inner
        return self.gradient

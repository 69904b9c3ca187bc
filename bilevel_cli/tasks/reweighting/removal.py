"""What becomes of inner parameters without a row: trained again, and as a proximal response."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, Problem, ProblemWrapper, StepData, has_outputs
from bilevel_cli.core.trees import Params, Tree


class Outers(NamedTuple):
    """Outer parameters with all rows, and without some.

    Attributes:
        whole: With all rows.
        without: For each of m removals, what differs from `whole`, of shapes [m, ...].
    """

    whole: Params
    without: Params


@dataclass(frozen=True)
class Removal:
    """Inner parameters without one row of the training examples, for several rows.

    Both ways solve an inner problem for each row, by the solver of the run.

    Args:
        damping: lam of the proximal response, >= 0.
        at_once: Solves that are mapped together.
    """

    damping: float
    at_once: int

    def retrained(self, loop: InnerLoop, outers: Outers, data: StepData) -> Params:
        """The ends of inner loops that are run from their start, of shapes [m, ...].

        Args:
            loop: The inner loop.
            outers: The outer parameters.
            data: Its start and its minibatches, the same for all removals.
        """

        def trained(outer: Params) -> Params:
            state = loop.begin(outer, data, loop.fresh(outer, data))
            return loop.run(state, outer, data)["inner"]

        return self._each(trained, outers)

    def responses(
        self, loop: InnerLoop, outers: Outers, data: StepData, centre: Params
    ) -> tuple[Params, Tensor]:
        """The proximal Bregman responses z_j (Bae et al., 2022, arXiv:2209.05364).

            z_j = argmin_z D(z) + f(z, without j) - f(z, whole) + damping / 2 |z - z*|^2

        where D is the Bregman divergence between the outputs at z and at z* of the loss of outputs,
        that of penalties included. For a mean of losses, f without row j less f is - l_j / n: the
        model may change its mind on row j, and stays near what it said of all others. z* need not
        be a minimiser of f. To first order in 1 / n,

            z_j - z* = (G + damping I)^-1 d l_j / n,    G the Gauss-Newton matrix at z*.

        Args:
            loop: The inner loop, of an `OutputLoss`.
            outers: The outer parameters.
            data: All examples, for each step of the solver.
            centre: z*.

        Returns:
            z_j, of shapes [m, ...]; and the largest of m gradients that are left, each as a share
            of the one at z*.
        """
        problem, batch = loop.problem, data.inner_at(-1)
        assert has_outputs(problem)
        outputs = problem.inner_outputs(centre, outers.whole, batch)

        def loss(outputs: Tree, inner: Params) -> Tensor:
            return problem.loss_of_outputs(outputs, inner, outers.whole, batch)

        slopes = autodiff.grad(loss, (0, 1))(outputs, centre)
        tied = replace(loop, problem=_Proximal(problem, centre, slopes, self.damping))

        def answered(outer: Params) -> tuple[Params, Tensor]:
            slope = autodiff.grad(tied.problem.inner_loss)
            found = tied.run(tied.solver.init(centre), outer, data)["inner"]
            left, begun = (trees.norm(slope(z, outer, batch)) for z in (found, centre))
            return found, left / torch.where(begun > 0, begun, 1.0)

        found, left = self._each(answered, outers)
        return found, left.amax()

    def changes(self, loss: Any, ends: Params) -> Tensor:
        """A loss at each of several inner parameters [m, ...], of shape [m]."""
        found: Tensor = autodiff.vmap(loss, chunk_size=self.at_once)(ends)
        return found

    def _each(self, solve: Any, outers: Outers) -> Any:
        def one(without: Params) -> Any:
            return solve({**outers.whole, **without})

        return autodiff.vmap(one, chunk_size=self.at_once)(outers.without)


@dataclass(frozen=True)
class _Proximal(ProblemWrapper):
    """f(z) - <h'(o*, z*), (o(z), z)> + damping / 2 |z - z*|^2 in place of f, where h' is given."""

    centre: Params
    slopes: tuple[Tree, Params]
    damping: float

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        problem: Problem = self.base
        assert has_outputs(problem)
        outputs = problem.inner_outputs(inner, outer, batch)
        loss = problem.loss_of_outputs(outputs, inner, outer, batch)
        by_outputs, by_inner = self.slopes
        pairs = zip(trees.leaves(by_outputs), trees.leaves(outputs), strict=True)
        for slope, output in pairs:
            loss = loss - (slope * output).sum()
        away = trees.axpy(-1.0, self.centre, inner)
        return loss - trees.dot(by_inner, inner) + 0.5 * self.damping * trees.dot(away, away)

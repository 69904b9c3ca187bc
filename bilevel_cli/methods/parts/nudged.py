"""The hypergradient as a slope of the smallest value of f + b F, by differences in b."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import Batch, ProblemWrapper, StepData
from bilevel_cli.core.requirements import AT_A_MINIMISER
from bilevel_cli.core.residuals import UNSOLVED, residual_doubt
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import relative_residual
from bilevel_cli.solvers.aggregated import Aggregated


class NudgedCarry(Carry):
    moves: dict[str, Params]  # z_b - z_K of the last outer step for each node; empty unless warm


@dataclass(frozen=True)
class Nudged(Hypergradient[NudgedCarry]):
    """A method that solves the inner problem again with the outer loss added to it.

    Let V(b, lambda) = min_z f(z, lambda) + b F(z, lambda), with the minimiser z_b. The
    hypergradient is the derivative of d_lambda V in b at b = 0, and by the envelope theorem

        d_lambda V(b, lambda) = d_lambda [f + b F](z_b, lambda),    z_b constant.

    So a difference of these in b estimates it by first derivatives alone.

    Args:
        nudge: The distance b of two nodes, > 0. It has to be small where F curves more than f.
        nudged_steps: Inner steps from z_K to z_b, >= 1, on the last of the inner minibatches. Where
            these are fewer, they are gone through again.
        warm_nudged: Begin each of them as far from z_K as the last outer step ended, not at z_K.
    """

    nudge: float
    nudged_steps: int
    warm_nudged: bool

    def __post_init__(self) -> None:
        if not 0 < self.nudge < math.inf:
            raise ValueError(
                f"{type(self).__name__} needs a finite nudge > 0, got nudge={self.nudge}. "
                "Set method.nudge, e.g. 0.01."
            )
        if self.nudged_steps < 1:
            raise ValueError(
                f"{type(self).__name__} needs nudged_steps >= 1, got "
                f"nudged_steps={self.nudged_steps}. Set method.nudged_steps, e.g. 20."
            )

    @property
    def remembers(self) -> bool:  # type: ignore[override]  # read-only: a setting decides
        return self.warm_nudged

    def init(self, outer: Params, state: SolverState) -> NudgedCarry:
        nodes = self.nodes() if self.warm_nudged else {}
        return {
            "inner": state,
            "moves": {str(node): trees.zeros_like(state["inner"]) for node in nodes},
        }

    requires = AT_A_MINIMISER

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        advice = (
            "Raise method.nudged_steps; or where it grows with them, lower method.nudge, at which "
            "f - b F has no minimiser, or solver.lr; or use method=cg."
        )
        return residual_doubt(row, advice, UNSOLVED)

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: NudgedCarry
    ) -> Estimate:
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        inner = state["inner"]
        slope, loss = autodiff.grad_and_value(loop.problem.outer_loss)(inner, outer, data.outer)
        grad, residual, moves = trees.zeros_like(outer), trees.zeros_like(inner), {}
        for node, weight in self.nodes().items():
            blend = node * self.nudge
            begun = state
            if self.warm_nudged:
                move = carry["moves"][str(node)]
                begun = {**state, "inner": trees.axpy(1.0, move, inner)}
            nudged = self._solved(loop, blend, begun, outer, data)
            slopes = autodiff.grad(_blended(loop, data, blend), (0, 1))(nudged, outer)
            share = weight / self.nudge
            residual = trees.axpy(share, slopes[0], residual)
            grad = trees.axpy(share, slopes[1], grad)
            if self.warm_nudged:
                moves[str(node)] = trees.axpy(-1.0, inner, nudged)
        free = loop.free(inner)
        left = relative_residual(trees.masked(residual, free), trees.masked(slope, free))
        following: NudgedCarry = {"inner": state, "moves": moves}
        return Estimate(grad, loss, following, {"adjoint_residual": left})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + len(self.nodes()) * (self.nudged_steps + 1), 0)

    def claim(self) -> Claim:
        """At a given b it tends to the difference of exact solutions."""
        return Claim(
            f"the hypergradient but for O(b^{self.exactness}), as a difference in b",
            self._reference,
            tolerance=1e-5,
            kind="limit",
            repeats=30,
            base=replace(self, warm_nudged=True),
        )

    @property
    @abc.abstractmethod
    def exactness(self) -> int:
        """p, where the estimate misses the hypergradient by O(b^p)."""

    def nodes(self) -> dict[int, float]:
        """The nodes, in units of b, and the weights of their slopes in the difference."""
        return difference(self.exactness)

    def _solved(
        self, loop: InnerLoop, blend: float, begun: SolverState, outer: Params, data: StepData
    ) -> Params:
        """z after the nudged steps on f + blend * F, or on f alone at the node 0."""
        if blend:
            loop = replace(loop, solver=Aggregated(loop.solver, 1.0, blend))
        for t in range(-self.nudged_steps, 0):
            begun = loop.step(begun, outer, data, t % data.num_steps)
        return begun["inner"]

    def _reference(self, trial: Trial) -> Params:
        """The same difference of minimisers by Newton's method, with weights by linear algebra."""
        nodes = range(-(self.exactness // 2), (self.exactness + 1) // 2 + 1)
        powers = [[float(node) ** power for node in nodes] for power in range(len(nodes))]
        one = torch.zeros(len(nodes), dtype=torch.float64)
        one[1] = 1.0  # the difference of b is 1, and of all other powers 0
        weights = torch.linalg.solve(torch.tensor(powers, dtype=torch.float64), one).tolist()
        total = trees.zeros_like(trial.outer)
        for node, weight in zip(nodes, weights, strict=True):
            problem = _Blended(trial.loop.problem, node * self.nudge, trial.data.outer)
            nudged = trial._replace(loop=replace(trial.loop, problem=problem))
            slope = references.differenced(
                _value(problem, references.minimiser(nudged), trial.data), trial.outer
            )
            total = trees.axpy(weight / self.nudge, slope, total)
        return total


def difference(order: int) -> dict[int, float]:
    """The weights that take values at nodes c = 0, +-1, +-2, ... to the derivative at 0.

    sum_c weight_c c^k is 1 for k = 1, and 0 for k = 0, 2, 3, ..., order: the solution of a
    Vandermonde system, here by the derivatives of Lagrange's polynomials, in integers. Of a smooth
    function at nodes c * b, the sum divided by b misses the derivative by O(b^order).

    Args:
        order: >= 1. For an even one the nodes are symmetric around 0, which itself has no weight;
            for an odd one they reach one further above 0 than below.

    Returns:
        Weights by their nodes.
    """
    nodes = range(-(order // 2), (order + 1) // 2 + 1)
    weights = {}
    for node in nodes:
        above, below = 1, node
        for other in nodes:
            if other not in (0, node):
                above, below = -above * other, below * (node - other)
        if node:
            weights[node] = above / below
        elif order % 2:  # minus the sum of 1 / c, whose terms cancel in pairs but for the last
            weights[node] = -1 / nodes[-1]
    return weights


@dataclass(frozen=True)
class _Blended(ProblemWrapper):
    """f + weight * F in place of f, with F on a given batch."""

    weight: float
    outer_batch: Batch

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        loss = self.base.inner_loss(inner, outer, batch)
        if not self.weight:
            return loss
        return loss + self.weight * self.base.outer_loss(inner, outer, self.outer_batch)


def _blended(loop: InnerLoop, data: StepData, weight: float) -> Callable[[Params, Params], Tensor]:
    """f + weight * F as a function of z and lambda, f on the last inner minibatch."""
    problem, batch = _Blended(loop.problem, weight, data.outer), data.inner_at(-1)
    return lambda inner, outer: problem.inner_loss(inner, outer, batch)


def _value(problem: _Blended, inner: Params, data: StepData) -> Callable[[Params], Tensor]:
    """The blended loss at a constant z, as a function of lambda."""
    return lambda outer: problem.inner_loss(inner, outer, data.inner_at(-1))

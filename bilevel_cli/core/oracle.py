"""The problem as a solver sees it.

A solver asks an oracle for gradients and knows nothing else of the problem. So a wrapper that
changes the answers (weight decay, a mixture of two losses) works with every solver.
"""

from dataclasses import dataclass, field
from typing import Protocol

from bilevel_cli.core import autodiff
from bilevel_cli.core.problem import Batch, Problem, inner_field
from bilevel_cli.core.trees import Params


class Oracle(Protocol):
    """The problem at fixed outer parameters and one minibatch, as an inner solver sees it."""

    @property
    def outer(self) -> Params:
        """The outer parameters, for a solver some of whose settings are learned."""
        ...

    @property
    def draws(self) -> Params:
        """The random numbers of this step, as `InnerSolver.draw` drew them for all steps."""
        ...

    def inner_grad(self, inner: Params) -> Params:
        """The inner field at z, of the keys and shapes of `inner`: the gradient of f, as a rule."""
        ...

    def outer_grad(self, inner: Params) -> Params:
        """The gradient of F in z, with the keys and shapes of `inner`."""
        ...


@dataclass(frozen=True)
class MinibatchOracle:
    """The oracle of one inner step, on that step's minibatch."""

    problem: Problem
    outer: Params
    inner_batch: Batch
    outer_batch: Batch
    draws: Params = field(default_factory=dict, kw_only=True)

    def inner_grad(self, inner: Params) -> Params:
        return inner_field(self.problem, inner, self.outer, self.inner_batch)

    def outer_grad(self, inner: Params) -> Params:
        return autodiff.grad(self.problem.outer_loss)(inner, self.outer, self.outer_batch)


@dataclass(frozen=True)
class FixedOracle:
    """An oracle that answers every question with one direction, wherever it is asked.

    With it, a solver steps along a direction that is no gradient, such as one of reduced variance.
    """

    outer: Params
    direction: Params
    draws: Params = field(default_factory=dict, kw_only=True)

    def inner_grad(self, inner: Params) -> Params:
        del inner
        return self.direction

    def outer_grad(self, inner: Params) -> Params:
        del inner
        return self.direction


@dataclass(frozen=True)
class OracleWrapper:
    """An oracle that answers as another one does. A subclass changes some of the answers."""

    base: Oracle

    @property
    def outer(self) -> Params:
        return self.base.outer

    @property
    def draws(self) -> Params:
        return self.base.draws

    def inner_grad(self, inner: Params) -> Params:
        return self.base.inner_grad(inner)

    def outer_grad(self, inner: Params) -> Params:
        return self.base.outer_grad(inner)

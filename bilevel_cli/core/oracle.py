"""The problem as a solver sees it."""

from dataclasses import dataclass
from typing import Protocol

from bilevel_cli.core import autodiff
from bilevel_cli.core.problem import Batch, Problem, inner_direction
from bilevel_cli.core.trees import Params


class Oracle(Protocol):
    """The problem at fixed outer parameters and one minibatch, as an inner solver sees it."""

    @property
    def outer(self) -> Params:
        """The outer parameters, for a solver some of whose settings are learned."""
        ...

    def inner_grad(self, inner: Params) -> Params:
        """Gradient of f in z, or what the solver follows in its place."""
        ...

    def outer_grad(self, inner: Params) -> Params:
        """Gradient of F in z."""
        ...


@dataclass(frozen=True)
class MinibatchOracle:
    """The oracle of one inner step, on that step's minibatch."""

    problem: Problem
    outer: Params
    inner_batch: Batch
    outer_batch: Batch

    def inner_grad(self, inner: Params) -> Params:
        return inner_direction(self.problem, inner, self.outer, self.inner_batch)

    def outer_grad(self, inner: Params) -> Params:
        return autodiff.grad(self.problem.outer_loss)(inner, self.outer, self.outer_batch)


@dataclass(frozen=True)
class FixedOracle:
    """An oracle that answers every question with one direction, whatever is asked where.

    So a solver steps along a direction that is no gradient, such as one of reduced variance.
    """

    outer: Params
    direction: Params

    def inner_grad(self, inner: Params) -> Params:
        del inner
        return self.direction

    def outer_grad(self, inner: Params) -> Params:
        del inner
        return self.direction


@dataclass(frozen=True)
class OracleWrapper:
    """An oracle that answers as another one does, but for what a subclass changes."""

    base: Oracle

    @property
    def outer(self) -> Params:
        return self.base.outer

    def inner_grad(self, inner: Params) -> Params:
        return self.base.inner_grad(inner)

    def outer_grad(self, inner: Params) -> Params:
        return self.base.outer_grad(inner)

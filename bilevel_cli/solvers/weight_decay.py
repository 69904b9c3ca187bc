"""Weight decay, around any solver."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle, OracleWrapper
from bilevel_cli.core.problem import Batch, Problem, ProblemWrapper
from bilevel_cli.core.solver import InnerSolver, SolverState, Wrapper
from bilevel_cli.core.trees import Params, Tree

Direction = Callable[..., Params]  # (z, lambda, batch) to what a solver follows


@dataclass(frozen=True)
class WeightDecay(Wrapper):
    """Any solver on f + weight_decay / 2 * |z|^2, as `weight_decay` of torch.optim.SGD and Adam.

    Args:
        base: The solver to run.
        weight_decay: Coefficient of the penalty, >= 0.
    """

    weight_decay: float

    def __post_init__(self) -> None:
        _check(self)

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        return self.base.step(_Decayed(oracle, self.weight_decay), state)

    def posed(self, problem: Problem) -> tuple[Problem, InnerSolver[Any]]:
        problem, base = self.base.posed(problem)
        return DecayedProblem(problem, self.weight_decay), base


@dataclass(frozen=True)
class DecoupledWeightDecay(Wrapper):
    """Any solver, whose steps also subtract lr * weight_decay * z.

    Around Adam this is torch.optim.AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101).

    Args:
        base: The solver to run.
        lr: Step size by which `weight_decay` is multiplied, usually that of the base.
        weight_decay: Coefficient of the decay, >= 0.
    """

    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        _check(self)

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        stepped: SolverState = self.base.step(oracle, state)
        shrink = -self.lr * self.weight_decay
        return {**stepped, "inner": trees.axpy(shrink, state["inner"], stepped["inner"])}

    @property
    def no_minimiser(self) -> str:
        return self.base.no_minimiser or (
            "decoupled weight decay, which comes to rest where its shrinking balances a step, and "
            "not at a minimiser of f or of f with a penalty"
        )


def _check(decay: WeightDecay | DecoupledWeightDecay) -> None:
    if not 0 <= decay.weight_decay < math.inf:
        raise ValueError(
            f"{type(decay).__name__} needs a finite weight_decay >= 0, "
            f"got weight_decay={decay.weight_decay}."
        )


@dataclass(frozen=True)
class _Decayed(OracleWrapper):
    weight_decay: float

    def inner_grad(self, inner: Params) -> Params:
        return trees.axpy(self.weight_decay, inner, self.base.inner_grad(inner))


@dataclass(frozen=True)
class DecayedProblem(ProblemWrapper):
    """f + weight_decay / 2 * |z|^2 in place of f. Everything else is that of the base."""

    weight_decay: float

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        loss = self.base.inner_loss(inner, outer, batch)
        return loss + 0.5 * self.weight_decay * trees.dot(inner, inner)

    def loss_of_outputs(self, outputs: Tree, inner: Params, outer: Params, batch: Batch) -> Tensor:
        base: Any = self.base  # has outputs where this is asked for
        loss: Tensor = base.loss_of_outputs(outputs, inner, outer, batch)
        return loss + 0.5 * self.weight_decay * trees.dot(inner, inner)

    def __getattr__(self, name: str) -> Any:
        if name == "base" or name.startswith("__"):  # while it is copied or unpickled
            raise AttributeError(name)
        found = getattr(self.base, name)
        return self._decayed(found) if name == "inner_field" else found

    def _decayed(self, direction: Direction) -> Direction:
        return lambda inner, *rest: trees.axpy(self.weight_decay, inner, direction(inner, *rest))

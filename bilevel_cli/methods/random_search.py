"""Random search: the baseline that uses no gradient."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData, projected
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import copies, perturbations


class RandomSearchCarry(Carry):
    first: Params  # the outer parameters at which the run began
    best: Params
    best_loss: Tensor  # infinite before the first outer step
    steps: Tensor  # outer steps so far


@dataclass(frozen=True)
class RandomSearch(Hypergradient[RandomSearchCarry]):
    """Independent candidates, the best of which is kept (Bergstra and Bengio, 2012).

    Each outer step runs the inner loop on candidates drawn from N(first, std^2), where `first` are
    the outer parameters at which the run began. They are the first candidate of the first step.
    Candidates are projected where the task has a projection. The best candidate is the one with the
    smallest outer loss at the end of the inner loop, on the data of its step; a loss that is not a
    number is never best.

        g = lambda - best,

    so that gradient descent with step size 1, which the yaml asks for, moves to the best one. The
    inner state and the loss are the best candidate's. Each candidate begins by the start policy.
    Under `start=cold`, which the yaml asks for, all have the same number of inner steps; under
    `start=warm` each begins where the best one stopped.

    Reports the best loss among the candidates of the step as `candidate_loss`.

    Cost: the inner gradients of an inner loop for each candidate.

    Args:
        candidates: Candidates of an outer step.
        std: Standard deviation of their outer parameters.
    """

    candidates: int
    std: float

    def __post_init__(self) -> None:
        perturbations.check_settings("RandomSearch", self.std, candidates=self.candidates)

    remembers = True

    def holds(self, sizes: Sizes) -> Parts:
        return copies.particles(sizes, self.candidates, "method.candidates")

    def init(self, outer: Params, state: SolverState) -> RandomSearchCarry:
        return {
            "inner": state,
            # Copies, since the runner updates the outer parameters in place.
            "first": trees.map_leaves(Tensor.clone, outer),
            "best": trees.map_leaves(Tensor.clone, outer),
            "best_loss": counter(state["inner"], math.inf),
            "steps": counter(state["inner"], 0.0),
        }

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return perturbations.normal(outer, self.candidates, self.std, generator)

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        copies.measure(loop, outer, data)

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        return False  # nothing better was found

    follows_inner_loss = False  # the state is of the best candidate, perhaps an earlier one

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: RandomSearchCarry
    ) -> Estimate:
        def final_loss(candidate: Params) -> tuple[Tensor, Params, SolverState]:
            candidate = projected(loop.problem, candidate)
            state = loop.run(loop.begin(candidate, data, carry["inner"]), candidate, data)
            loss = loop.problem.outer_loss(state["inner"], candidate, data.outer)
            return loss, candidate, state

        everything = perturbations.around(carry["first"], data.noise)
        drawn = {name: value[1:] for name, value in everything.items()}
        with_first = {name: value[:-1] for name, value in everything.items()}
        candidates = perturbations.choose(carry["steps"] == 0, with_first, drawn)
        some = copies.at_once(copies.particles, self.candidates, loop, outer, data)
        losses, candidates, states = copies.mapped(final_loss, some, candidates)
        losses = torch.where(losses.isnan(), math.inf, losses)  # argmin would take nan for least
        loss, index = losses.min(0)
        better = loss < carry["best_loss"]
        best = perturbations.choose(better, perturbations.row(candidates, index), carry["best"])
        state = perturbations.choose(better, perturbations.row(states, index), carry["inner"])
        best_loss = torch.where(better, loss, carry["best_loss"])
        return Estimate(
            grad=trees.axpy(-1.0, best, outer),
            loss=best_loss,
            carry={
                "inner": state,
                "first": carry["first"],
                "best": best,
                "best_loss": best_loss,
                "steps": carry["steps"] + 1,
            },
            metrics={"candidate_loss": loss},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(self.candidates * num_steps, 0)

    def claim(self) -> Claim:
        # Close to the first candidate, about half of the others are better, and always some.
        candidates, std = max(self.candidates, 10), min(self.std, 0.01)
        base = replace(self, candidates=candidates, std=std)
        return Claim("lambda - the best candidate", distance_to_best, base=base, perturbs=True)


def distance_to_best(trial: Trial) -> Params:
    """lambda - best, after the first outer step: one candidate after the other."""
    loop, data, outer = trial.loop, trial.data, trial.outer
    best, least = outer, math.inf
    for number in range(len(next(iter(data.noise.values())))):
        candidate = outer
        if number:
            drawn = {name: value[number - 1] for name, value in data.noise.items()}
            candidate = projected(loop.problem, trees.axpy(1.0, drawn, outer))
        state = loop.run(loop.begin(candidate, data, trial.carry["inner"]), candidate, data)
        loss = float(loop.problem.outer_loss(state["inner"], candidate, data.outer))
        if loss < least:
            best, least = candidate, loss
    return trees.axpy(-1.0, best, outer)

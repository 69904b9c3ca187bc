"""Persistent evolution strategies."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import copies, perturbations


class PesCarry(Carry):
    particles: Any  # solver states, with a leading dimension: the unperturbed one first, then pairs
    directions: Params
    age: Tensor  # windows of the present inner problem that are over, 0-dim


@dataclass(frozen=True)
class Pes(Hypergradient[PesCarry]):
    """Persistent evolution strategies (Vicol, Metz, Sohl-Dickstein, 2021, arXiv:2112.13835).

    Each outer step is one window, of K inner steps, of an inner problem of `horizon` windows.
    Antithetic pairs of particles keep their own inner states from window to window, and are
    perturbed anew in each. The present losses are weighed with the drift, which is the sum of all
    perturbations since the problem began. That removes the bias of truncation:

        g = mean over pairs of drift * (L(lambda + eps) - L(lambda - eps)) / (2 std^2),
        L = mean over the steps t of the window of F(z_t, lambda),    drift = sum of eps so far.

    At fixed lambda the mean of g is the gradient of that window's L through all inner steps since
    the problem began, up to O(std^2) where L is not quadratic. Summed over the windows of a
    problem, that is K times less the gradient of the sum of F along the whole trajectory. With
    horizon 1 this is `Es` on the window's mean loss in place of its last one: the same where K = 1.

    After `horizon` windows all particles begin another inner problem by the start policy, with
    drift zero: under `start=cold` afresh, at their perturbed outer parameters where the problem
    learns its start; under `start=warm` where the unperturbed particle stopped.

    Cost: the inner gradients of 2 pairs + 1 inner loops. Memory: as many solver states.

    Args:
        pairs: Antithetic pairs of particles.
        std: Standard deviation of the perturbations, in the unit of the outer parameters.
        horizon: Windows, that is outer steps, of an inner problem.
    """

    pairs: int
    std: float
    horizon: int

    def __post_init__(self) -> None:
        counts = {"pairs": self.pairs, "horizon": self.horizon}
        perturbations.check_settings(type(self).__name__, self.std, **counts)

    remembers = True

    def holds(self, sizes: Sizes) -> Parts:
        return copies.particles(sizes, 2 * self.pairs + 1, "method.pairs", carried=True)

    def init(self, outer: Params, state: SolverState) -> PesCarry:
        several = 2 * self.pairs + 1
        return {
            "inner": state,
            "particles": trees.map_leaves(lambda x: x.expand(several, *x.shape), state),
            "directions": {
                name: value.new_zeros(self.pairs, *value.shape) for name, value in outer.items()
            },
            "age": counter(state["inner"], 0.0),
        }

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return perturbations.normal(outer, self.pairs, self.std, generator)

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        copies.measure(loop, outer, data)

    def followed(
        self, loop: InnerLoop, outer: Params, data: StepData, before: PesCarry, after: PesCarry
    ) -> tuple[Params, Params]:
        begun = loop.begin(outer, data, before["inner"])["inner"]
        own = perturbations.unperturbed(before["particles"])["inner"]
        start = perturbations.choose(before["age"] == 0, begun, own)
        return start, after["inner"]["inner"]

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: PesCarry) -> Estimate:
        begins = carry["age"] == 0
        noise, directions = self.directions(data.noise, carry["directions"], begins)

        def window(outer: Params, state: SolverState) -> tuple[Tensor, Tensor, SolverState]:
            begun = loop.begin(outer, data, carry["inner"])
            state = perturbations.choose(begins, begun, state)
            total = counter(state["inner"], 0.0)
            for t in range(data.num_steps):
                state = loop.step(state, outer, data, t)
                loss = loop.problem.outer_loss(state["inner"], outer, data.outer)
                total = total + loss
            return total / data.num_steps, loss, state

        several = perturbations.around(outer, perturbations.mirrored(noise))
        some = copies.at_once(copies.particles, 2 * self.pairs + 1, loop, outer, data)
        means, last, particles = copies.mapped(window, some, several, carry["particles"])
        plus, minus = means[1:].chunk(2)
        weights = (plus - minus) / (2 * self.std**2 * self.pairs)
        return Estimate(
            grad=perturbations.combine(weights, directions),
            loss=last[0],
            carry={
                "inner": perturbations.unperturbed(particles),
                "particles": particles,
                "directions": directions,
                "age": (carry["age"] + 1) % self.horizon,
            },
            metrics={"window": carry["age"] + 1},
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost((2 * self.pairs + 1) * num_steps, 0)

    def claim(self) -> Claim:
        pairs, std = max(self.pairs, perturbations.ENOUGH), min(self.std, perturbations.NARROW)
        base = replace(self, pairs=pairs, std=std)
        return perturbations.mean_claim("d mean_t F(z_t)/dlambda in the mean", first_window, base)

    def directions(self, noise: Params, before: Params, begins: Tensor) -> tuple[Params, Params]:
        """The perturbations of this window, and the directions that its losses weigh.

        Args:
            noise: Perturbations that were drawn for this window.
            before: The directions of the window before.
            begins: Whether this window is the first one of an inner problem.
        """
        before = perturbations.choose(begins, trees.zeros_like(before), before)
        return noise, trees.axpy(1.0, before, noise)


def first_window(trial: Trial) -> Params:
    """The derivative of the mean of F(z_t(lambda), lambda) over the steps of a first window."""

    def mean_loss(outer: Params) -> Tensor:
        loop, data = trial.loop, trial.data
        state, losses = loop.begin(outer, data, trial.carry["inner"]), []
        for t in range(data.num_steps):
            state = loop.step(state, outer, data, t)
            losses.append(loop.problem.outer_loss(state["inner"], outer, data.outer))
        return torch.stack(losses).mean()

    return references.differenced(mean_loss, trial.outer)

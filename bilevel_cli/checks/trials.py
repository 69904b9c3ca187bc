"""The estimates to which a claim is held: of one inner problem, whose minibatches are all alike."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, counting, draws, episodes, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params

AT_ONCE = 20_000  # inner parameters of all estimates that are mapped at once
AWAY = 0.1  # standard deviation of the outer parameters around their start, where symmetries hide


def setting(
    task: Task,
    loop: InnerLoop,
    method: Hypergradient[Any],
    num_steps: int,
    seed: int,
    away: float,
) -> tuple[Params, StepData]:
    """The outer parameters and the data of all estimates of a check.

    Args:
        task: The task.
        loop: The inner loop on the task.
        method: The method, for the number of its extra minibatches.
        num_steps: Inner steps.
        seed: Of the outer parameters and the sample.
        away: Standard deviation of the outer parameters around their start.

    Returns:
        The outer parameters, away from their start; and the data of the first episode, in
        which one minibatch serves for all inner steps and all extra minibatches.
    """
    cpu = torch.Generator().manual_seed(seed)
    outer = task.init_outer(cpu)
    device = next(iter(outer.values())).device if outer else torch.device("cpu")
    data = task.sample(1, torch.Generator(device).manual_seed(seed))
    if task.episodes is not None:
        data = episodes.first(data)
    outer = {**loop.outer_init(data, outer), **outer}
    outer = {
        name: value
        + away * draws.normal(*value.shape, generator=cpu, drawn_in=torch.float64).to(value)
        for name, value in outer.items()
    }

    # Drop the block numbers. A method with a memory for each block would see one block only, and
    # its memory would never fill.
    inner, last = (
        {name: value for name, value in batch.items() if name != "block"}
        for batch in (data.inner, data.outer)
    )

    def repeated(count: int) -> dict[str, Tensor]:
        return {name: value.expand(count, *value.shape[1:]) for name, value in inner.items()}

    extras = method.extras(num_steps)
    extra = repeated(extras) if extras else {}
    outer = task.project_outer(outer)
    data = data._replace(inner=repeated(num_steps), outer=last, extra=extra)
    return outer, loop.drawn(outer, data, torch.Generator(device).manual_seed(seed))


def distance(found: Params, reference: Params) -> float:
    """|found - reference|, for two trees of the same shapes."""
    return float(trees.norm(trees.axpy(-1.0, reference, found)))


def relative_error(found: Params, reference: Params) -> float:
    """|found - reference| / |reference|; the distance alone where the reference is zero."""
    return distance(found, reference) / (float(trees.norm(reference)) or 1.0)


class End(NamedTuple):
    """How a sequence of estimates ended, each of which began with the memory of the one before.

    Attributes:
        found: The last estimate.
        trial: What it saw.
        moved: The relative distance by which the second half of the sequence moved.
    """

    found: Estimate
    trial: Trial
    moved: float


@dataclass(frozen=True)
class Trials:
    """Estimates of one hypergradient, at fixed outer parameters and data.

    Args:
        loop: The inner loop, of one inner problem.
        outer: The outer parameters.
        data: The data, whose random numbers are drawn anew for every estimate.
        noise: Draws them, on the device of the outer parameters. Every estimate moves it on.
    """

    loop: InnerLoop
    outer: Params
    data: StepData
    noise: torch.Generator

    def first(self, method: Hypergradient[Any]) -> Any:
        """The memory of `method` before its first estimate."""
        return method.begin(
            self.loop, self.outer, self.data, self.loop.fresh(self.outer, self.data)
        )

    def one(self, method: Hypergradient[Any], carry: Any) -> tuple[Estimate, Trial]:
        """One estimate from the memory `carry`, and what it saw."""
        noise = method.draw(self.outer, self.noise)
        drawn = self.loop.drawn(self.outer, self.data._replace(noise=noise), self.noise)
        found = method.estimate(self.loop, self.outer, drawn, carry)
        return found, Trial(self.loop, self.outer, drawn, carry, found.carry["inner"]["inner"])

    def repeated(self, method: Hypergradient[Any], carry: Any, count: int) -> End:
        """`count` estimates, the first from the memory `carry`."""
        found, trial = self.one(method, carry)
        half = found
        for number in counting.counted(range(1, count), count - 1):
            if number == count // 2:
                half = found
            found, trial = self.one(method, found.carry)
        return End(found, trial, relative_error(half.grad, found.grad))

    def drawn(self, method: Hypergradient[Any], claim: Claim, trial: Trial) -> Tensor:
        """Estimates that differ in their random numbers alone, [claim.repeats, outer parameters].

        Args:
            method: The method.
            claim: Says how many, and of which random numbers its mean is.
            trial: All else that the estimates see.
        """
        loop, outer, data, carry, last = trial

        def vector(noise: Params, draws: Params) -> Tensor:
            given = data._replace(noise=noise, draws=draws)
            return trees.ravel(method.estimate(loop, outer, given, carry).grad)[0]

        def drawn() -> tuple[Params, Params]:
            noise = method.draw(outer, self.noise)
            again = loop.drawn(outer, data, self.noise) if claim.over_draws else data
            return noise, again.draws

        every = [drawn() for _ in range(claim.repeats)]
        firsts = range(0, claim.repeats, max(1, AT_ONCE // trees.size(last)))
        found = []
        for first in counting.counted(firsts, len(firsts)):
            some = every[first : first + firsts.step]
            noise, draws = trees.map_leaves(lambda *xs: torch.stack(xs), *some)
            # Mapped: one by one takes a hundred times longer.
            found.append(autodiff.vmap(vector)(noise, draws))
        return torch.cat(found)

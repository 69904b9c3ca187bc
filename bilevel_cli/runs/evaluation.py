"""The scores of a run: those of its task, and those of fresh inner solves."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import episodes
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.random import FRESH_SOLVE, generator
from bilevel_cli.core.trees import Params
from bilevel_cli.records.table import Row
from bilevel_cli.runs.rows import read
from bilevel_cli.runs.state import RunState
from bilevel_cli.vocabulary import TEST_STEPS

Scores = dict[str, Tensor]


def scores(state: RunState) -> Row:
    """The task's scores, and those of fresh inner solves where the plan asks for some.

    Every process must ask.
    """
    part, inner = state.experiment, state.inner()
    found: dict[str, Any] = dict(part.task.evaluate(part.loop, state.learned, inner))
    if (steps := state.plan.schedule.retrain) is not None:
        found |= retrained(state, inner, steps)
    if state.plan.test_steps:
        found |= after_steps(state, state.plan.test_steps)
    return read(found)


@torch.no_grad()
def retrained(state: RunState, inner: Params, steps: int) -> Scores:
    """F and the scores of a fresh inner solve, beside F of the joint inner parameters.

    They say what outer parameters teach by themselves: the gap between the two F is the information
    that lives in the inner parameters alone (Vicol et al., 2022, arXiv:2212.14032). The solve takes
    the outer parameters as the task deploys them, begins where the task begins, whatever the start
    policy, and takes `steps` of the run's own solver. Both F are on the same outer minibatch, and
    every evaluation draws the same.

    Columns: joint_loss; retrained_loss; and each score of the task behind `retrained_`.

    Args:
        state: Of a run with one inner problem.
        inner: The joint inner parameters: the last iterate of the run.
        steps: Inner steps of the fresh solve.
    """
    task, loop = state.experiment.task, state.experiment.loop
    outer = task.deployed(state.learned)
    data = _drawn(state, outer, steps)
    fresh = loop.run(loop.fresh(outer, data), outer, data)["inner"]
    found = {
        "joint_loss": task.outer_loss(inner, state.learned, data.outer),
        "retrained_loss": task.outer_loss(fresh, outer, data.outer),
    }
    return found | {f"retrained_{n}": s for n, s in task.evaluate(loop, outer, fresh).items()}


@torch.no_grad()
def after_steps(state: RunState, counts: Sequence[int]) -> Scores:
    """The scores of new inner solves after each of several numbers of steps, as `test_steps` asks.

    They say whether more steps than training takes help at test time, or fewer hurt (Ramzi et al.,
    "Test like you train in implicit deep learning", arXiv:2305.15042). A solve begins where the
    start policy begins one that has no past, and passes through all numbers: it costs as many inner
    steps as the largest.

    Columns: `test_steps_5_` before each score after 5 steps. Of episodes they are those of
    `Task.evaluate_after`, or the mean `loss` of new ones. One inner problem has F as its `loss`, on
    the minibatches of `retrained`, and then the scores of its task.

    Args:
        state: Of the run.
        counts: Numbers of inner steps, >= 0 and ascending.
    """
    solved = _solved if state.experiment.task.episodes is None else _adapted
    return {
        f"{TEST_STEPS}{count}_{name}": score
        for count, found in solved(state, counts).items()
        for name, score in found.items()
    }


def _solved(state: RunState, counts: Sequence[int]) -> dict[int, Scores]:
    """F and the scores of one inner problem after each number of steps."""
    task, loop = state.experiment.task, state.experiment.loop
    outer = task.deployed(state.learned)
    data = _drawn(state, outer, counts[-1])
    begun = loop.begin(outer, data, loop.fresh(outer, data))
    found = {}
    for count, passed in zip(counts, loop.passing(begun, outer, data, counts), strict=True):
        inner = passed["inner"]
        loss = task.outer_loss(inner, outer, data.outer)
        found[count] = {"loss": loss, **task.evaluate(loop, outer, inner)}
    return found


def _adapted(state: RunState, counts: Sequence[int]) -> dict[int, Scores]:
    """The scores of held-out episodes, or else F of new ones, after each number of steps."""
    task, loop, outer = state.experiment.task, state.experiment.loop, state.learned
    if found := task.evaluate_after(loop, outer, counts):
        return found

    def losses(episode: StepData) -> Scores:
        begun = loop.begin(outer, episode, loop.fresh(outer, episode))
        passed = zip(counts, loop.passing(begun, outer, episode, counts), strict=True)
        return {str(n): task.outer_loss(s["inner"], outer, episode.outer) for n, s in passed}

    every = episodes.each(losses)(_drawn(state, outer, counts[-1]))
    return {count: {"loss": every[str(count)].mean()} for count in counts}


def _drawn(state: RunState, outer: Params, steps: int) -> StepData:
    """The data of a fresh solve, the same at every evaluation."""
    task, loop = state.experiment.task, state.experiment.loop
    random = generator(state.plan.seed, FRESH_SOLVE, state.machine.device)
    return episodes.drawn(loop, outer, task.sample(max(1, steps), random), random)

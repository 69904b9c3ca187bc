"""The scores of a run: those of its task, and those of a fresh inner solve."""

from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import episodes
from bilevel_cli.core.random import FRESH_SOLVE, generator
from bilevel_cli.core.trees import Params
from bilevel_cli.records.table import Row
from bilevel_cli.runs.rows import read
from bilevel_cli.runs.state import RunState


def scores(state: RunState) -> Row:
    """The task's scores, and those of a fresh inner solve where the schedule asks for one.

    Every process must ask.
    """
    part, inner = state.experiment, state.inner()
    found: dict[str, Any] = dict(part.task.evaluate(part.loop, state.outer, inner))
    if (steps := state.plan.schedule.retrain) is not None:
        found |= retrained(state, inner, steps)
    return read(found)


@torch.no_grad()
def retrained(state: RunState, inner: Params, steps: int) -> dict[str, Tensor]:
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
    outer = task.deployed(state.outer)
    random = generator(state.plan.seed, FRESH_SOLVE, state.machine.device)
    data = episodes.drawn(loop, outer, task.sample(steps, random), random)
    fresh = loop.run(loop.fresh(outer, data), outer, data)["inner"]
    found = {
        "joint_loss": task.outer_loss(inner, state.outer, data.outer),
        "retrained_loss": task.outer_loss(fresh, outer, data.outer),
    }
    return found | {f"retrained_{n}": s for n, s in task.evaluate(loop, outer, fresh).items()}

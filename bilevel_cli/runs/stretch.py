"""Outer steps of a run that may be taken at once, since nothing is due after any of them."""

import math
from typing import Any, NamedTuple

from bilevel_cli.runs.state import RunState


class Stretch(NamedTuple):
    """What a run asks for: that outer steps be taken, after none of which anything is due.

    Attributes:
        steps: How many there are; fewer may be taken.
    """

    steps: int


def alike(run: RunState) -> int:
    """How many of the next outer steps are of one kind, and have nothing due after them.

    0 where the next one is given all examples, or where a budget is to end the run and the
    costs of a step are known only after it.
    """
    schedule, step = run.plan.schedule, run.step
    due = min(schedule.outer_steps, *(step // n * n + n for n in schedule.cadence))
    if schedule.budget is not None:
        try:
            cost = run.cost(run.carry, _Untold()).inner_grads
        except KeyError:
            return 0
        each = float(cost) * (run.experiment.task.episodes or 1)
        due = min(due, step + math.ceil((schedule.budget - run.inner_grads) / max(each, 1.0)))
    every = run.experiment.method.whole_every
    whole = due if every is None else step + -step % every
    return min(due - step - 1, whole - step)


class _Untold(dict[str, Any]):
    """Metrics of a step that is not taken yet: whoever asks for one gets a KeyError."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        raise KeyError(name)

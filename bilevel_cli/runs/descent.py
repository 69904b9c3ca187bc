"""Whether inner loops run down the inner loss."""

import math
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import episodes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Hypergradient
from bilevel_cli.core.problem import StepData, episodes_of, follows_loss
from bilevel_cli.core.trees import Params
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.runs.doubts import INNER_LOSS

START, END = COLUMNS = ("inner_loss_start", "inner_loss_end")

# How much of its value a loop may add to the inner loss. A projection or a rounded sum may cost
# this; a step size above 2 / curvature multiplies the distance to the minimum at every step.
TOLERANCE = 0.01
# Where steps follow another direction than the gradient of f, such as one of weights that clean
# examples decide, f may rise a little in a step that does what it should.
TOLERANCE_ELSEWHERE = 0.1


class Descent:
    """The inner loss before and after inner loops, and what to think of it.

    Args:
        method: Says where its inner loop began and ended.
        loop: The inner loop.
        ranks: The processes that share the episodes.
        chunk_size: Episodes that a mapping holds in memory at once.
        settings: Of the solver, as configured: by them a sentence names the step size.
    """

    def __init__(
        self,
        method: Hypergradient[Any],
        loop: InnerLoop,
        ranks: Ranks,
        chunk_size: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.settings = settings or {}
        self.method, self.loop, self.ranks, self.chunk_size = method, loop, ranks, chunk_size
        self.expected = method.follows_inner_loss and not loop.solver.no_minimiser
        self.tolerance = TOLERANCE if follows_loss(loop.problem) else TOLERANCE_ELSEWHERE
        self._rows = self._raised = 0
        self._steady = True

    def measure(
        self, outer: Params, data: StepData, before: Carry, after: Carry
    ) -> dict[str, Tensor]:
        """The inner loss at the start and at the end of the inner loop of an outer step, 0-dim.

        Both on the last inner minibatch, at the outer parameters before the step; means over
        episodes. Costs two values of the inner loss for each episode, which `inner_grads` does not
        count as they are no gradients, and the start once more. Draws no random number.

        Args:
            outer: The outer parameters before the step.
            data: Of the step, of all episodes.
            before: The memory before the step, of the episodes of this process.
            after: The memory after it, likewise.
        """
        loop = self.loop

        def both(data: StepData, before: Carry, after: Carry) -> Tensor:
            states = self.method.followed(loop, outer, data, before, after)
            batch = data.inner_at(-1)
            losses = [loop.problem.inner_loss(z, outer, batch) for z in states]
            return torch.stack(losses).reshape(2)

        count = episodes_of(loop.problem)
        # Full batches repeat over inner steps without a copy.
        axis = 0 if count is None else 1
        repeats = all(batch.stride(axis) == 0 for batch in data.inner.values())
        self._steady = (repeats or data.num_steps == 1) and before["inner"].keys() == {"inner"}
        if count is None:
            found = both(data, before, after)
        else:
            own = episodes.each(both, self.chunk_size)(self.ranks.share(data), before, after)
            found = self.ranks.total(own.sum(0)) / count
        return dict(zip(COLUMNS, found.unbind(), strict=True))

    def doubts(self, row: dict[str, float], outer: Params) -> dict[str, str]:
        """A sentence of the kind `inner_loss` where the loop of a row raised the inner loss.

        One row is enough where every step descends the same function, by its gradient alone. Where
        each step has a minibatch of its own, a loop that began at a minimum raises the loss of the
        last one by chance; one with momentum swings. There, most rows so far must have been raised.

        Args:
            row: What `measure` found in the last step, among other numbers; or not.
            outer: The outer parameters, one of which the step size may be.
        """
        if START not in row or not self.expected:
            return {}
        start, end = row[START], row[END]
        self._rows += 1
        if not _raised(row, self.tolerance):
            return {}
        self._raised += 1
        if not self._steady and 2 * self._raised <= self._rows:
            return {}
        verb = "raised" if end > start else "took"
        return {
            INNER_LOSS: f"The inner loop {verb} the inner loss from {start:.4g} to {end:.4g}, "
            f"where it should fall. Lower {self._step_size(outer)}."
        }

    def _step_size(self, outer: Params) -> str:
        """The setting of the solver's step size, of the solver that it wraps, with its value."""
        name, settings = "solver", self.settings
        while isinstance(settings.get("base"), dict):
            name, settings = f"{name}.base", settings["base"]
        lr = settings.get("lr")
        if isinstance(lr, dict):
            name, lr = f"{name}.lr.initial", lr.get("initial")
        else:
            name = f"{name}.lr"
        learned = self.loop.solver.settings(outer).get("lr")
        if learned is not None and learned.dim() == 0:
            return f"{name}: the learned step size is now {float(learned):.4g}"
        return f"{name}, now {lr:g}" if isinstance(lr, float | int) else name

    def saved(self) -> dict[str, int]:
        return {"rows": self._rows, "raised": self._raised}

    def restore(self, saved: dict[str, int]) -> None:
        self._rows, self._raised = saved["rows"], saved["raised"]


def _raised(row: dict[str, float], tolerance: float) -> bool:
    start, end = row[START], row[END]
    if not math.isfinite(start) and not math.isfinite(row["outer_loss"]):
        return False  # the outer parameters were no numbers, and the run says so
    # Where f falls to zero, what is left of it is rounding.
    rounding = torch.finfo(torch.get_default_dtype()).eps
    return not end <= start + tolerance * abs(start) + rounding

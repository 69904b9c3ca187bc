"""A task both of whose losses are means over examples: how minibatches are cut and drawn."""

import torch

from bilevel_cli.core.blocks import Blocks, check_batch_size
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.random import INNER, OUTER
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params


class TwoSums(Task):
    """A task with a mean over inner examples and one over outer examples, both cut into blocks.

    A subclass calls `cut` in its constructor. It sets `_start`, or draws another `start` each time.

    Attributes:
        inner_blocks: The examples of f.
        outer_blocks: The examples of F.
    """

    inner_blocks: Blocks
    outer_blocks: Blocks
    _start: Params

    def cut(
        self,
        inner: Batch,
        outer: Batch,
        batch_size: int | None,
        outer_batch_size: int | None,
    ) -> None:
        """Cuts the examples of both losses into minibatches.

        Args:
            inner: The examples of f, in random order, on the device of the task.
            outer: The examples of F, likewise.
            batch_size: Examples of an inner step; None for all of them.
            outer_batch_size: Examples of an outer step; None for all of them.

        Raises:
            ValueError: A size is not from 1 to the number of examples.
        """
        who = type(self).__name__
        for setting, size, examples in (
            ("batch_size", batch_size, inner),
            ("outer_batch_size", outer_batch_size, outer),
        ):
            check_batch_size(who, setting, size, len(next(iter(examples.values()))))
        self.inner_blocks = Blocks(inner, batch_size)
        self.outer_blocks = Blocks(outer, outer_batch_size)
        self.blocks = self.inner_blocks.count, self.outer_blocks.count

    def start(self, generator: torch.Generator) -> Params:
        """z at the start of an inner loop, on the device of the task: always the same by default.

        Args:
            generator: On that device, for a start that is drawn.
        """
        del generator
        return self._start

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        start = self.start(generator)
        inner = self.inner_blocks.draw(INNER, num_steps, generator)
        return StepData(start, inner, self.outer_blocks.one(OUTER, generator))

    def whole(self) -> dict[str, Batch]:
        """All examples of both losses; empty where each has a single block."""
        if self.inner_blocks.count == self.outer_blocks.count == 1:
            return {}
        return {"inner": self.inner_blocks.whole(), "outer": self.outer_blocks.whole()}

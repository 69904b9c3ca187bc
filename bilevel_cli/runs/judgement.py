"""What a run notes of its own numbers, and what it doubts of them."""

from typing import Any

from torch import Tensor

from bilevel_cli.core.method import Estimate
from bilevel_cli.core.trees import Params, Scalar
from bilevel_cli.records.table import Row
from bilevel_cli.runs.descent import Descent
from bilevel_cli.runs.doubts import Doubts, zero_hypergradient
from bilevel_cli.runs.experiment import Experiment, Machine
from bilevel_cli.runs.flags import Flags
from bilevel_cli.runs.rounding import Rounding
from bilevel_cli.runs.rows import read
from bilevel_cli.runs.state import Inputs


class Judgement:
    """Looks at every outer step, and doubts a row that shows a reason to.

    Args:
        experiment: What is computed.
        machine: Where.
        outer: The outer parameters.
        solver: The settings of the solver, by which a doubt names its step size; None for none.
        log_every: Outer steps between two rows.

    Attributes:
        doubts: The doubts so far, the first of each kind.
        descent: Whether inner loops run down the inner loss.
        rounding: What a mixed precision makes of the hypergradient.
        flags: What every outer step notes on the device.
    """

    def __init__(
        self,
        experiment: Experiment,
        machine: Machine,
        outer: Params,
        solver: dict[str, Any] | None,
        log_every: int,
    ) -> None:
        self.method = experiment.method
        self.doubts, self.flags = Doubts(), Flags(outer)
        self.descent = Descent(
            experiment.method, experiment.loop, machine.ranks, machine.episodes_chunk, solver
        )
        self.rounding = Rounding(experiment, machine, log_every)
        self._judged = False  # whether it is known which outer parameters act

    def measure(self, step: int, inputs: Inputs, estimate: Estimate) -> dict[str, Tensor]:
        """What the row of an outer step needs to be judged by, 0-dim, by column.

        The inner loss before and after the inner loop; and at some rows, under a name that `read`
        takes away, what a mixed precision costs.
        """
        outer, data, before = inputs
        losses = self.descent.measure(outer, data, before, estimate.carry)
        return {**losses, **self.rounding.measure(step, inputs, estimate)}

    def look(self, step: int, grad: Params, outer: Params) -> None:
        """Notes, on the device, what an outer step gave.

        Args:
            step: Its number, from 1 on.
            grad: Its hypergradient.
            outer: The outer parameters after it.
        """
        self.flags.look(step, grad, outer)

    def read(self, report: dict[str, Scalar]) -> Row:
        """Brings a report to the host, and with it what all steps since the last row have noted."""
        row = read({**report, **self.flags.unread()})
        self.flags.take(row)
        self.rounding.take(row)
        return row

    def noted(self) -> dict[str, int]:
        """The first step with numbers that are not finite, by what they are of; asked only once.

        Empty where all were finite between the last two reports that were read.
        """
        found, self.flags.found = self.flags.found, {}
        return found

    def doubt(self, step: int, row: Row, outer: Params) -> None:
        """Notes what a row, of finite or other numbers, says against itself.

        Args:
            step: The outer steps taken.
            row: As `read` returned it.
            outer: The outer parameters.
        """
        numbers = {name: float(value) for name, value in row.items()}
        own = self.method.doubts(numbers)
        descent, rounding = self.descent.doubts(numbers, outer), self.rounding.doubts()
        self.doubts.note(step, {**own, **descent, **rounding})
        if self._judged or not self.method.zero_tells(numbers, step):
            return
        names = self.flags.never_moved()
        if own and len(names) == len(outer):
            return  # a linear solve that stopped at zero is the reason, and says so
        self._settle()
        self.doubts.note(step, zero_hypergradient(names, step))

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "doubts": self.doubts.found,
            "descent": self.descent.saved(),
            "judged": self._judged,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from a checkpoint, and forgets what was noted after it."""
        self.flags.forget()
        self.doubts.restore(saved["doubts"])
        self.descent.restore(saved["descent"])
        if self._judged or saved["judged"]:
            self._settle()

    def _settle(self) -> None:
        self._judged = True
        self.flags.settle()

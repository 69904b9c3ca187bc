"""What a mixed precision makes of the hypergradient: a run measures it by itself."""

import logging
import math

from torch import Tensor

from bilevel_cli.core.method import Estimate
from bilevel_cli.errors import out_of_memory
from bilevel_cli.metrics.precision_gap import COLUMN, PrecisionGap
from bilevel_cli.nn import autocasting
from bilevel_cli.records.table import Row
from bilevel_cli.runs.doubts import PRECISION
from bilevel_cli.runs.experiment import Experiment, Machine
from bilevel_cli.runs.state import Inputs, viewed

log = logging.getLogger(__name__)

# Of the norm of the hypergradient. bfloat16 has 2^-9 = 0.2 % of rounding in each number, and most
# methods make 1 to 5 % of it; beyond, the rounding was divided by something small.
TOLERANCE = 0.1
NOTED = "precision gap"  # no name that a column of train.csv has


class Rounding:
    """The distance of the hypergradient to that in float32, at some rows, and what to think of it.

    Measured at the rows 1, 2, 4, 8, ..., since each time takes an estimate in float32, and its
    memory. The distance grows while a run goes on: the hypergradient becomes small, and rounding
    does not.

    Args:
        experiment: What is computed.
        machine: Where.
        log_every: Outer steps between two rows.
    """

    def __init__(self, experiment: Experiment, machine: Machine, log_every: int) -> None:
        self._loop, self._ranks, self._log_every = experiment.loop, machine.ranks, log_every
        self._metric = PrecisionGap(experiment.method)
        probed = any(isinstance(one, PrecisionGap) for one in experiment.metrics.values())
        self._measures = autocasting.used() is not None and not probed
        self._fits = True  # whether this process has the memory
        self._found = 0.0

    def measure(self, step: int, inputs: Inputs, estimate: Estimate) -> dict[str, Tensor]:
        """The distance at a row, 0-dim, under a name that `take` knows; nothing if it is not due.

        Args:
            step: The number of the outer step, from 1 on.
            inputs: Of the step.
            estimate: Of the step.
        """
        row = math.ceil(step / self._log_every)
        if not self._measures or row & (row - 1):
            return {}
        # In every process, also in one without the memory: the others wait for it.
        view = viewed(step, self._loop, self._ranks, inputs, estimate)
        if not self._fits:
            return {}
        try:
            (found,) = self._metric.measure(view).values()
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._fits = False
            log.warning(
                "What device.precision=%s costs the hypergradient stays unknown: in float32 the "
                "same outer step needs more memory than there is.",
                autocasting.used(),
            )
            return {}
        return {NOTED: found}

    def take(self, row: Row) -> None:
        """Keeps what was measured, by `measure` or by the metric of the run, from a row."""
        self._found = float(row.pop(NOTED, row.get(COLUMN, 0.0)))

    def doubts(self) -> dict[str, str]:
        """A sentence of the kind `precision`, if the last row was further off than TOLERANCE."""
        if autocasting.used() is None or not self._found > TOLERANCE:
            return {}
        return {
            PRECISION: f"device.precision={autocasting.used()} moves the hypergradient by "
            f"{self._found:.2g} of its norm, where at most {TOLERANCE:g} is trusted: what was "
            "rounded is subtracted or divided by something small. Use device.precision=null, or "
            "another method: docs/precision.md says what each of them loses."
        }

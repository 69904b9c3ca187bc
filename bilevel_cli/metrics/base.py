"""The interface of metrics."""

import abc
from typing import Any, NamedTuple

from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params


class StepView(NamedTuple):
    """One outer step: what went into it and what came out, before the outer parameters move.

    A metric reads the tensors, on the device of the run, and changes none.

    Attributes:
        step: The number of the step, from 1 on.
        loop: The inner loop of the run.
        outer: The outer parameters at which the estimate was made.
        data: The data of the step.
        carry: What the method remembered before the step.
        estimate: What the method returned.
    """

    step: int
    loop: InnerLoop
    outer: Params
    data: StepData
    carry: Any
    estimate: Estimate


class Metric(abc.ABC):
    """A probe of outer steps, which works for any task and any method."""

    @abc.abstractmethod
    def measure(self, view: StepView) -> dict[str, Tensor]:
        """Columns of train.csv, as 0-dim tensors, the same ones at every call.

        It is called at the steps that write a row.
        """

"""The interface of metrics."""

import abc
from typing import Any, NamedTuple

from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params


class StepView(NamedTuple):
    """One outer step: what went into it and what came out, before the outer parameters move."""

    step: int
    loop: InnerLoop
    outer: Params
    data: StepData
    carry: Any
    estimate: Estimate


class Metric(abc.ABC):
    @abc.abstractmethod
    def measure(self, view: StepView) -> dict[str, Tensor]:
        """Columns of train.csv, as 0-dim tensors. Called at the steps that write a row."""

"""A method that fails in one process of two."""

import os
from dataclasses import dataclass

import torch

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.reverse import Reverse


@dataclass(frozen=True)
class Frail(Reverse):
    """As backpropagation, where it does not fail.

    Args:
        window: As there.
        segment: As there.
        where: "check" to fail before the first step, "estimate" to fail in it.
    """

    where: str

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        super().check(loop, outer, data)
        self._fail("check")

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        self._fail("estimate")
        return super().estimate(loop, outer, data, carry)

    def _fail(self, here: str) -> None:
        if os.environ.get("RANK") == "1" and here == self.where:
            raise torch.linalg.LinAlgError("frail, on purpose")  # type: ignore[attr-defined]

"""Methods and a task that fail in one process of two, or in all."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.darts import Darts
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.tasks.hyperparameters.linear_model import RidgeRegression


class Lost(Tensor):
    """A tensor on a GPU that has failed."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ == "__get__":  # a shape is known without the GPU
            given = func, types, args, kwargs or {}
            return super().__torch_function__(*given)  # type: ignore[no-untyped-call]  # torch's
        raise RuntimeError("the GPU is lost, on purpose")


@dataclass(frozen=True)
class Frail(Reverse):
    """As backpropagation, where it does not fail.

    Args:
        window: As there.
        segment: As there.
        where: "check" to fail before the first step, "estimate" to fail in it, "device" to fail in
            it as a GPU does, on which nothing can be computed from then on.
    """

    where: str

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        super().check(loop, outer, data)
        self._fail("check")

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        self._fail("estimate")
        if os.environ.get("RANK") == "1" and self.where == "device":
            outer.update({name: value.as_subclass(Lost) for name, value in outer.items()})
            next(iter(outer.values())) + 1
        return super().estimate(loop, outer, data, carry)

    def _fail(self, here: str) -> None:
        if os.environ.get("RANK") == "1" and here == self.where:
            raise torch.linalg.LinAlgError("frail, on purpose")  # type: ignore[attr-defined]


@dataclass(frozen=True)
class FrailDarts(Darts):
    """As DARTS, but for its fifth outer step, which fails outside of a loss.

    Args:
        radius: As there.
        ranks: The processes in which it fails.
    """

    ranks: list[int]
    steps = 0

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        FrailDarts.steps += 1
        if FrailDarts.steps == 5 and int(os.environ.get("RANK", "0")) in self.ranks:
            raise torch.linalg.LinAlgError("frail, on purpose")  # type: ignore[attr-defined]
        return super().estimate(loop, outer, data, carry)


class FrailRidge(RidgeRegression):
    """As ridge regression, but for its twentieth loss of a part of seven examples in process 1."""

    parts = 0

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        FrailRidge.parts += len(batch["y"]) < 7
        if os.environ.get("RANK") == "1" and FrailRidge.parts == 20:
            raise MemoryError("frail, on purpose")
        return super().inner_loss(inner, outer, batch)

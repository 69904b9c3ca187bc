"""A follower with several best responses, of which the leader wants one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params


class Counterexample(Task):
    """min F = (x - y_2)^2 / 2 + (y_1 - 1)^2 / 2 over x, and y in argmin f = y_1^2 / 2 - x y_1.

    From Liu et al. (2020, arXiv:2006.04045), and again in Liu, Ye et al. (2022, arXiv:2209.08709).
    Any y_2 is a best response; the optimistic solution is x = 1, y = (1, 1), with F = 0. A method
    that leaves y_2 where it began, at 0, ends at x = 1/2 with F = 1/4.

    Scores: F at the last inner iterate, |x - 1|, f(y) - min f at that iterate, x and y.

    Args:
        start: (x, y_1, y_2) at first.
        device: Where the problem lives.
    """

    def __init__(self, start: Sequence[float], device: torch.device) -> None:
        numbers = len(start) == 3 and all(isinstance(value, int | float) for value in start)
        if not (numbers and all(math.isfinite(value) for value in start)):
            raise ValueError(f"Counterexample needs start=[x,y1,y2], got start={start}.")
        self.start = torch.tensor([float(value) for value in start], device=device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": self.start[0].clone()}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        unused = self.start[0].expand(num_steps)
        return StepData({"y": self.start[1:]}, {"unused": unused}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        y = inner["y"]
        return 0.5 * y[0] ** 2 - outer["x"] * y[0]

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        y = inner["y"]
        return 0.5 * (outer["x"] - y[1]) ** 2 + 0.5 * (y[0] - 1) ** 2

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        x, y = outer["x"], inner["y"]
        return {
            "value": self.outer_loss(inner, outer, {}),
            "distance": (x - 1).abs(),
            "gap": 0.5 * (y[0] - x) ** 2,
            "x": x,
            "y1": y[0],
            "y2": y[1],
        }

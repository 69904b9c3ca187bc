"""The numerical example of IAPTT-GM: a follower that is not convex."""

import math

import torch
from torch import Tensor

from bilevel_cli.loop import InnerLoop
from bilevel_cli.problem import Batch, StepData
from bilevel_cli.starts.base import LEARNED_PREFIX
from bilevel_cli.tasks.base import Task
from bilevel_cli.trees import Params

SOLUTION = 11 * math.pi / 4


class Toy(Task):
    """min F = x + xy over x in [1, 10], y in argmin f = -sin(xy) over [-2, 2].

    Eq. 10 of Liu et al. (2021, arXiv:2110.00455). The solution is x = 11 pi / 4, y = -2 with
    F = -11 pi / 4; at x = 7 pi / 4, y = -2 there is a local one, at relative error 4 / 11 in both
    F and x. The bounds on y are those of `solver=projected`; here they bound its learned start.

    Scores: |F - F*| / |F*| at the last inner iterate, and |x - x*| / |x*|.

    Args:
        x: Start of x, in [1, 10].
        y: Start of y, in [-2, 2].
        device: Where the problem lives.
    """

    def __init__(self, x: float, y: float, device: torch.device) -> None:
        if not (1 <= x <= 10 and -2 <= y <= 2):
            raise ValueError(f"Toy needs x in [1, 10] and y in [-2, 2], got x={x}, y={y}.")
        self.x, self.y = torch.tensor([float(x), float(y)], device=device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": self.x.clone()}

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return StepData({"y": self.y}, {"unused": self.y.expand(num_steps)}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return -torch.sin(outer["x"] * inner["y"])

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return outer["x"] + outer["x"] * inner["y"]

    def project_outer(self, outer: Params) -> Params:
        bounds = {"x": (1.0, 10.0), LEARNED_PREFIX + "y": (-2.0, 2.0)}
        return {
            name: value.clamp(*bounds[name]) if name in bounds else value
            for name, value in outer.items()
        }

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        loss = self.outer_loss(inner, outer, {})
        return {
            "relative_error_f": (loss + SOLUTION).abs() / SOLUTION,
            "relative_error_x": (outer["x"] - SOLUTION).abs() / SOLUTION,
            "x": outer["x"],
            "y": inner["y"],
        }

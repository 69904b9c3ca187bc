"""The numerical example of IAPTT-GM: a follower that is not convex."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params

SOLUTION = 11 * math.pi / 4


class Toy(Task):
    """min F = x + xy over x in [1, 10], y in argmin f = -sin(xy) over [-2, 2].

    Eq. 10 of Liu et al. (2021, arXiv:2110.00455). The solution is x = 11 pi / 4, y = -2 with
    F = -11 pi / 4; at x = 7 pi / 4, y = -2 there is a local one, at relative error 4 / 11 in both
    F and x. The bounds on y are those of `solver=projected`; here they bound its learned start.

    Scores: |F - F*| / |F*| at the inner iterate y that the present x leads to, |x - x*| / |x*|,
    x and y.

    Args:
        start: (x, y) at first.
        eval_steps: Inner steps of an evaluation.
        device: Where the problem lives.
    """

    def __init__(self, start: Sequence[float], eval_steps: int, device: torch.device) -> None:
        numbers = len(start) == 2 and all(isinstance(value, int | float) for value in start)
        if not (numbers and 1 <= start[0] <= 10 and -2 <= start[1] <= 2):
            raise ValueError(
                f"Toy needs start=[x,y] with x in [1, 10] and y in [-2, 2], got start={start}."
            )
        if eval_steps < 1:
            raise ValueError(f"Toy needs eval_steps >= 1, got eval_steps={eval_steps}.")
        self.eval_steps = eval_steps
        self.x, self.y = torch.tensor([float(value) for value in start], device=device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": self.x.clone()}

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
        generator = torch.Generator(self.y.device).manual_seed(0)
        data = loop.drawn(outer, self.sample(self.eval_steps, generator), generator)
        state = loop.run(loop.begin(outer, data, loop.fresh(outer, data)), outer, data)
        loss = self.outer_loss(state["inner"], outer, {})
        return {
            "relative_error_f": (loss + SOLUTION).abs() / SOLUTION,
            "relative_error_x": (outer["x"] - SOLUTION).abs() / SOLUTION,
            "x": outer["x"],
            "y": state["inner"]["y"],
        }

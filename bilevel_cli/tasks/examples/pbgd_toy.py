"""The numerical example of PBGD: a follower that is not convex, but for which gradients suffice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params

# The local minimisers of F(x, -x) on [0, 3]; the second is the global one, with F = 0.19991089.
MINIMISERS = (0.38236, 1.215145, 2.829642)


class PbgdToy(Task):
    """min F over x in [0, 3], and y in argmin f = (x + y)^2 + x sin^2(x + y), which is y = -x.

        F = cos(4 y + 2) / (1 + e^(2 - 4 x)) + log((4 x - 2)^2 + 1) / 2

    From Shen & Chen (2023, arXiv:2302.05185). f is not convex in y, but satisfies the
    Polyak-Lojasiewicz inequality. F(x, -x) has three local minimisers.

    Scores: F(x, -x), the distance of x to the nearest local minimiser, |x + y| at the last inner
    iterate, x and y.

    Args:
        start: (x, y) at first.
        device: Where the problem lives.
    """

    def __init__(self, start: Sequence[float], device: torch.device) -> None:
        numbers = len(start) == 2 and all(isinstance(value, int | float) for value in start)
        if not (numbers and 0 <= start[0] <= 3 and abs(start[1]) < float("inf")):
            raise ValueError(
                f"PbgdToy needs start=[x,y] with x in [0, 3] and a finite y, got start={start}."
            )
        self.x, self.y = torch.tensor([float(value) for value in start], device=device)
        self.minimisers = torch.tensor(MINIMISERS, device=device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": self.x.clone()}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return StepData({"y": self.y}, {"unused": self.y.expand(num_steps)}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        total = outer["x"] + inner["y"]
        return total**2 + outer["x"] * torch.sin(total) ** 2

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        x = outer["x"]
        wave = torch.cos(4 * inner["y"] + 2) * torch.sigmoid(4 * x - 2)
        return wave + 0.5 * torch.log1p((4 * x - 2) ** 2)

    def project_outer(self, outer: Params) -> Params:
        return {n: value.clamp(0.0, 3.0) if n == "x" else value for n, value in outer.items()}

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        x, y = outer["x"], inner["y"]
        return {
            "value": self.outer_loss({"y": -x}, outer, {}),
            "distance": (x - self.minimisers).abs().min(),
            "gap": (x + y).abs(),
            "x": x,
            "y": y,
        }

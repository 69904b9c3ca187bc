"""The example of IAPTT-GM with a convex follower, which leaves half of its answer open."""

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params

BOUND = 100.0


class ConvexToy(Task):
    """min F = |x - y_2|^4 + |y_1 - e|^4 over x in [-100, 100]^n, y in argmin |y_1|^2 / 2 - x'y_1.

    Eq. 13 of Liu et al. (2021, arXiv:2110.00455), where e is the vector of ones. Any y_2 is a best
    response. So the solution x = y_1 = y_2 = e cannot be reached from a start that nobody learns:
    with y_2 = 0 the exact hypergradient ends at x = e / 2. If the inner loop stops early, F has
    other zeros, where the learned start of y_1 makes up for a wrong x.

    Scores: |x - e|, and |y - (e, e)| and F at the last inner iterate y. x and y begin at 0.

    Args:
        dim: Dimension n.
        device: Where the problem lives.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        if dim < 1:
            raise ValueError(f"ConvexToy needs dim >= 1, got dim={dim}. Set task.dim, e.g. 50.")
        self.zero = torch.zeros(dim, device=device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": self.zero.clone()}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return StepData(
            {"y": self.zero.repeat(2, 1)}, {"unused": self.zero[0].expand(num_steps)}, {}
        )

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        y = inner["y"][0]
        return (0.5 * y - outer["x"]) @ y

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        y = inner["y"]
        return (outer["x"] - y[1]).square().sum() ** 2 + (y[0] - 1).square().sum() ** 2

    def project_outer(self, outer: Params) -> Params:
        return {n: value.clamp(-BOUND, BOUND) if n == "x" else value for n, value in outer.items()}

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        return {
            "distance_x": (outer["x"] - 1).norm(),
            "distance_y": (inner["y"] - 1).norm(),
            "value": self.outer_loss(inner, outer, {}),
        }

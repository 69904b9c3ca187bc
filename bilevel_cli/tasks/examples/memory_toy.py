"""The smallest problem in which a warm start remembers what outer parameters have been."""

import math

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params

GRID = 2000


class MemoryToy(Task):
    """One outer number, an angle, which shows the inner parameters one direction at a time.

        f(w, theta) = (a(theta)'(w - w_o))^2 / 2,    a(theta) = [cos n theta, sin n theta] / sqrt(h)
        F(w)        = |w - w_o|^2 / 2,               n = 1..h,  |w_o| = 1

    The best responses are a hyperplane that turns with theta. A fully converged warm start projects
    w onto one of them after the other, w_k = w_{k-1} + a a'(w_o - w_{k-1}). So it comes to know
    w_o, although no single angle tells more than one coordinate of it. This is a minimal case of
    the memory of Vicol et al. (2022, arXiv:2212.14032). Since |a| = 1, one inner step of length 1
    converges fully.

    The outer loss of a step has a random slope in theta besides, as a minibatch would give it. Once
    w is in the hyperplane, nothing else moves theta on.

    Scores: F at the last inner iterate; at the projection of 0, to which re-training at the present
    angle leads; and the least such F of any angle.

    Args:
        harmonics: h; w has 2 h entries, and begins at 0.
        noise: Standard deviation of the slope. An outer step moves theta by it times outer_lr.
        device: Where the problem lives.
        generator: Draws w_o.
    """

    def __init__(
        self, harmonics: int, noise: float, device: torch.device, generator: torch.Generator
    ) -> None:
        if harmonics < 1:
            raise ValueError(f"MemoryToy needs harmonics >= 1, got harmonics={harmonics}.")
        if not 0 <= noise < math.inf:
            raise ValueError(f"MemoryToy needs a finite noise >= 0, got noise={noise}.")
        self.noise = noise
        self.orders = torch.arange(1.0, harmonics + 1, device=device)
        target = draws.normal(2 * harmonics, generator=generator)
        self.target = (target / target.norm()).to(device)

    def direction(self, angle: Tensor) -> Tensor:
        """a(theta), of shape [..., 2 h] for angles of shape [...]."""
        angles = angle[..., None] * self.orders
        return torch.cat([angles.cos(), angles.sin()], dim=-1) / math.sqrt(len(self.orders))

    def retrained(self, angle: Tensor) -> Tensor:
        """F at the best response that is nearest to 0, for angles of any shape."""
        return 0.5 * (1 - (self.direction(angle) @ self.target).square())

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"angle": (2 * math.pi * draws.uniform(generator=generator)).to(self.target)}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        zeros = torch.zeros_like(self.target)
        slope = self.noise * draws.normal(generator=generator)
        return StepData({"w": zeros}, {"unused": zeros[0].expand(num_steps)}, {"slope": slope})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.direction(outer["angle"]) @ (inner["w"] - self.target)) ** 2

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._distance(inner) + batch["slope"] * outer["angle"]

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        angles = 2 * math.pi / GRID * torch.arange(GRID, device=self.target.device)
        return {
            "joint": self._distance(inner),
            "retrained": self.retrained(outer["angle"]),
            "best_cold": self.retrained(angles).min(),
        }

    def _distance(self, inner: Params) -> Tensor:
        return 0.5 * (inner["w"] - self.target).square().sum()

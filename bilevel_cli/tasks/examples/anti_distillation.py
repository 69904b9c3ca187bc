"""Anti-distillation: more learned labels than there are original examples to learn them from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params


class AntiDistillation(Task):
    """Labels of a grid such that a Fourier series fitted to them fits the original examples.

        f(w, u) = |Phi w - u|^2 / 2        on evenly spaced points of [-1, 1]
        F(w)    = |Phi_o w - t|^2 / 2      on the original examples

    Rows of Phi are [1, cos(n pi x) / n, sin(n pi x) / n]. Many u have F = 0. Which of them is found
    depends on the approximation of the inverse of H = Phi' Phi (Vicol et al., 2022,
    arXiv:2212.14032; their constants are not published, and those of conf/ are a reconstruction).
    From u = 0 and w = 0, outer gradient descent ends at

        u = A (J A)^-1 t,    J = Phi_o Phi^+,    A = Phi G Phi_o',

    with G for the inverse: G = H^+ gives the u of least norm, G = I the w of least norm, and the
    terms of a Neumann series, or the damping, trade one norm for the other. Phi is fixed, so no
    inner step moves w in its null space, and a warm start ends where a cold one does.

    Scores: |u|; |w| and F at the best response w = Phi^+ u, which re-training from zero finds;
    |w_K - w| of the last inner iterate w_K.

    Args:
        points: Number of learned labels.
        frequencies: Largest n.
        inputs: x of the original examples.
        targets: t of the original examples.
        device: Where the problem lives.
    """

    def __init__(
        self,
        points: int,
        frequencies: int,
        inputs: Sequence[float],
        targets: Sequence[float],
        device: torch.device,
    ) -> None:
        for name, size in (("points", points), ("frequencies", frequencies)):
            if size < 1:
                raise ValueError(
                    f"AntiDistillation needs {name} >= 1, got {name}={size}. Set task.{name}."
                )
        if not len(inputs) == len(targets) > 0:
            raise ValueError(
                "AntiDistillation needs one target for each of at least one input, got "
                f"{len(targets)} for {len(inputs)}. Set task.inputs and task.targets."
            )
        if not all(math.isfinite(value) for value in (*inputs, *targets)):
            raise ValueError(
                f"AntiDistillation needs finite numbers, got inputs={list(inputs)} and "
                f"targets={list(targets)}."
            )
        grid = torch.linspace(-1, 1, points, dtype=torch.float64)
        features = _fourier(grid, frequencies)
        original = _fourier(torch.tensor(inputs, dtype=torch.float64), frequencies)
        like = torch.zeros((), device=device)
        self.features, self.original = features.to(like), original.to(like)
        # float64: the period is 2, so that both ends of the grid have one row, and H is singular.
        self.best_response = torch.linalg.pinv(features, rtol=1e-10).to(like)
        self.targets = torch.tensor(targets, dtype=torch.float64).to(like)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"labels": self.features.new_zeros(len(self.features))}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        zeros = torch.zeros_like(self.features[0])
        return StepData({"w": zeros}, {"unused": zeros[0].expand(num_steps)}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.features @ inner["w"] - outer["labels"]).square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.original @ inner["w"] - self.targets).square().sum()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        best = self.best_response @ outer["labels"]
        return {
            "outer_norm": outer["labels"].norm(),
            "inner_norm": best.norm(),
            "value": self.outer_loss({"w": best}, outer, {}),
            "inner_distance": (inner["w"] - best).norm(),
        }


def _fourier(x: Tensor, frequencies: int) -> Tensor:
    n = torch.arange(1, frequencies + 1, dtype=x.dtype)
    angles = math.pi * n * x[:, None]
    return torch.cat([torch.ones_like(x)[:, None], angles.cos() / n, angles.sin() / n], dim=1)

"""Sequences that score higher than all whose score is known."""

import torch
from torch import Tensor

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task

PLACES, LETTERS, DESIGNS, PENALTY, TARGET = 8, 4, 16, 4.0, 10.0


class SequenceDesign(Task):
    """The letters x of 16 new sequences, judged by two ridge regressions on features phi.

        f(w, x) = sum_d [(w_d . phi(x_d) - 10)^2 + 4 |w_d|^2] / 2
        F(w, x) = mean_d [share (v . phi(x_d) - 10)^2 + (1 - share) mean_i (w_d . phi_i - y_i)^2]

    v has learned the known scores y_i, of mean 0 and variance 1, and shall like design d. w_d
    learns from design d alone and shall tell the known scores (Chen et al., ICML 2023).

    Scores: what the best design is worth, the one that v likes most, the median one, and the best
    known sequence. Of all 65536 sequences the worst is worth 0 and the best 1.

    Args:
        share: Of the forward part, from 0 to 1.
        device: Where the sequences live. Given by the run.
        generator: Draws the true scores, the same for all methods of one seed. Given by the run.
    """

    higher_is_better = ("*_design", "best_known")

    def __init__(self, share: float, device: torch.device, generator: torch.Generator) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"SequenceDesign needs 0 <= share <= 1, got {share}. Set task.share.")
        # Each letter counts by itself and with each other one. The features see neighbours alone.
        words = torch.cartesian_prod(*[torch.arange(LETTERS)] * PLACES).T
        true = torch.randn(PLACES, LETTERS, generator=generator).gather(1, words).sum(0)
        pair = 0.5 * torch.randn(PLACES, PLACES, LETTERS, LETTERS, generator=generator)
        i, j = torch.triu_indices(PLACES, PLACES, offset=1)
        true = true + pair[i[:, None], j[:, None], words[i], words[j]].sum(0)
        some = torch.randperm(len(true), generator=generator)[:2000]
        known = some[true[some].argsort()[:1000]]  # the better half of 2000 sequences is not known
        x = features(torch.eye(LETTERS)[words.T[known]])
        mean, y = x.mean(0), (true[known] - true[known].mean()) / true[known].std()
        v = torch.linalg.solve((x - mean).T @ x + PENALTY * torch.eye(len(mean)), x.T @ y)
        batch = {"phi": x - mean, "y": y, "v": v, "mean": mean}
        self.known: Batch = {name: value.to(device) for name, value in batch.items()}
        self.true = ((true - true.min()) / (true.max() - true.min())).to(device)
        self.best_known, self.share = self.true[known.to(device)].max(), share

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": torch.randn(DESIGNS, PLACES, LETTERS, generator=generator).to(self.true)}

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        mean = self.known["mean"]
        zeros, steps = torch.zeros_like(mean).repeat(DESIGNS, 1), mean.repeat(num_steps, 1)
        return StepData({"w": zeros}, {"mean": steps}, self.known)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        told = (inner["w"] * (features(outer["x"].softmax(-1)) - batch["mean"])).sum(1)
        return 0.5 * ((told - TARGET).square().sum() + PENALTY * inner["w"].square().sum())

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        forward = (features(outer["x"].softmax(-1)) - batch["mean"]) @ batch["v"] - TARGET
        backward = inner["w"] @ batch["phi"].T - batch["y"]
        return self.share * forward.square().mean() + (1 - self.share) * backward.square().mean()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        word = outer["x"].argmax(-1)
        liked = (features(torch.eye(LETTERS).to(self.true)[word]) @ self.known["v"]).argmax()
        true = self.true[(word * LETTERS ** torch.arange(PLACES).flip(0).to(word)).sum(1)]
        scores = {"best_design": true.max(), "liked_design": true[liked]}
        return {**scores, "median_design": true.median(), "best_known": self.best_known}


def features(x: Tensor) -> Tensor:
    """Letters [..., 8, 4], and those of neighbours together, [..., 8 * 4 + 7 * 16]."""
    return torch.cat([x.flatten(-2), (x[..., :-1, :, None] * x[..., 1:, None, :]).flatten(-3)], -1)

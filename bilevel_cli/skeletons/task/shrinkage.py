"""How far to shrink each weight of a linear model, learned on validation examples."""

import torch
from torch import Tensor

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task


class Shrinkage(Task):
    """An L2 penalty for each feature of a linear model.

        f(w, lambda) = mean_i (x_i . w - y_i)^2 / 2 + sum_j exp(lambda_j) w_j^2 / 2   on training
        F(w)         = mean_i (x_i . w - y_i)^2 / 2                                   on validation

    Scores: the test loss of the last inner iterate, and its validation loss.

    Args:
        features: Number of features; every second one has nothing to do with the target.
        noise: Standard deviation of the noise of the targets, >= 0.
        device: Where the examples live. Given by the run.
        generator: Draws the examples, the same for all methods of one seed. Given by the run.
    """

    def __init__(
        self, features: int, noise: float, device: torch.device, generator: torch.Generator
    ) -> None:
        if features < 2:
            raise ValueError(f"Shrinkage needs features >= 2, got {features}. Set task.features.")
        # Your data go here, on `device`. To be given those of data=..., name an argument `data`
        # and say of which kind they are: `needs = Examples`.
        truth = torch.arange(features) % 2
        self.examples: dict[str, Batch] = {}
        for part, count in (("train", 40), ("validation", 40), ("test", 400)):
            x = torch.randn(count, features, generator=generator)
            y = x @ truth.to(x) + noise * torch.randn(count, generator=generator)
            self.examples[part] = {"x": x.to(device), "y": y.to(device)}
        self.statement = "Examples: 40 for training, 40 for validation, 400 for test."

    def init_outer(self, generator: torch.Generator) -> Params:
        # lambda before the first outer step.
        return {"log_l2": torch.zeros_like(self.examples["train"]["x"][0])}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        # The data of one outer step: a start, a minibatch for each inner step, an outer batch.
        # Here each minibatch is all training examples: [num_steps, examples, ...].
        train = self.examples["train"]
        inner = {name: value.expand(num_steps, *value.shape) for name, value in train.items()}
        start = {"weight": torch.zeros_like(train["x"][0])}
        return StepData(start, inner, self.examples["validation"])

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        # Your f, a scalar. It draws no random numbers: they are in `batch`.
        penalty = 0.5 * (outer["log_l2"].exp() * inner["weight"].square()).sum()
        return self.outer_loss(inner, outer, batch) + penalty

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        # Your F, a scalar.
        return 0.5 * (batch["x"] @ inner["weight"] - batch["y"]).square().mean()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        # Your scores, the columns of eval.csv, the most telling one first.
        return {
            f"{part}_loss": self.outer_loss(inner, outer, self.examples[part])
            for part in ("test", "validation")
        }

"""Hyperparameters of linear models: a weight of the L2 penalty for every feature."""

import abc
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bilevel_cli.core import autodiff, draws
from bilevel_cli.core.blocks import mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.base import Labelled, Regression, Rows, Source

STARTS = ("zeros", "random")
NEWTON_STEPS = 100


class FeaturePenalties(OutputLoss, TwoSums):
    """An L2 penalty for every feature of a linear model without bias.

        f(w, lambda) = mean_i loss(x_i . w, y_i) + sum_j exp(lambda_j) w_j^2 / 2   on training
        F(w)         = mean_i loss(x_i . w, y_i)                                   on validation

    examples: section 4 of Dagreou et al. (2022, arXiv:2201.13409), after Pedregosa (2016,
    arXiv:1602.02355). f is strongly convex, so the hypergradient has a closed form in w*(lambda).

    Scores: F at w*(lambda), which Newton's method finds in float64 with all training examples; the
    squared norm of the exact hypergradient there; |w - w*|^2 of the last inner iterate w; its mean
    loss on validation and, if there are some, test examples; for two classes, accuracies too.

    Minibatches are blocks (`bilevel_cli.core.blocks`): cut once, each drawn once in an epoch.

    Args:
        start: "zeros", or "random": w standard normal and exp(lambda_j) uniform in [0, 1), as in
            the bilevel benchmark.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        data: Rows of a table.
        device: Where the examples live.
        generator: Draws the split and a random w.
    """

    def __init__(
        self,
        start: str,
        batch_size: int | None,
        outer_batch_size: int | None,
        data: Source,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        who = type(self).__name__
        if start not in STARTS:
            raise ValueError(
                f"{who} needs start to be one of {', '.join(STARTS)}, got start={start}."
            )
        parts = data.splits(generator)
        if parts.train.x.dim() != 2:
            raise ValueError(
                f"{who} needs rows of a table, got inputs of shape {list(parts.train.x.shape[1:])}."
                " Use task=hpo."
            )
        self.examples = {
            name: self.as_batch(part, device) for name, part in parts._asdict().items()
        }
        both = self.examples["train"], self.examples["validation"]
        self.cut(*both, batch_size, outer_batch_size)
        sizes = [f"{len(part.y)} for {name}" for name, part in parts._asdict().items()]
        self.statement = f"Examples: {', '.join(sizes)}."
        self.random = start == "random"
        features = parts.train.x.shape[1]
        first = (
            draws.normal(features, generator=generator) if self.random else torch.zeros(features)
        )
        self._start = {"weight": first.to(device)}

    @abc.abstractmethod
    def loss(self, score: Tensor, y: Tensor) -> Tensor:
        """The losses of scores x . w, entry by entry."""

    def as_batch(self, part: Labelled, device: torch.device) -> Batch:
        """The examples as the losses take them."""
        dtype = torch.get_default_dtype()
        return {"x": part.x.to(device, dtype), "y": part.y.to(device, dtype)}

    def accuracies(self, score: Tensor, y: Tensor) -> dict[str, Tensor]:
        """More scores of predictions x . w, by name, besides their mean loss; none by default."""
        del score, y
        return {}

    def init_outer(self, generator: torch.Generator) -> Params:
        weight = self._start["weight"]
        if not self.random:
            return {"log_l2": torch.zeros_like(weight)}
        return {"log_l2": draws.uniform(*weight.shape, generator=generator).log().to(weight)}

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return batch["x"] @ inner["weight"]

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        penalty = 0.5 * (outer["log_l2"].exp() * inner["weight"].square()).sum()
        return mean(self.loss(outputs, batch["y"]), batch) + penalty

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return mean(self.loss(batch["x"] @ inner["weight"], batch["y"]), batch)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        train, validation = (
            {name: value.double() for name, value in self.examples[part].items()}
            for part in ("train", "validation")
        )
        l2 = outer["log_l2"].double().exp()
        best, hessian = self.solve(l2, train)
        score = validation["x"] @ best
        slope = self.derivatives(score, validation["y"])[0] @ validation["x"] / len(score)
        # d_lambda d_w f is diagonal, with entries exp(lambda_j) w_j.
        hypergradient = -l2 * best * torch.linalg.solve_ex(hessian, slope).result
        scores = {
            "value": self.loss(score, validation["y"]).mean(),
            "hypergradient_norm2": hypergradient.square().sum(),
            "inner_distance2": (inner["weight"].double() - best).square().sum(),
        }
        for part in ("validation", "test"):
            x, y = self.examples[part]["x"], self.examples[part]["y"]
            if len(y):
                score = x @ inner["weight"]
                found = {"loss": self.loss(score, y).mean(), **self.accuracies(score, y)}
                scores |= {f"{part}_{name}": value for name, value in found.items()}
        return scores

    def solve(self, l2: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """w*, and the Hessian of f there, by Newton's method with halved steps.

        Args:
            l2: exp(lambda), float64, of shape [d].
            batch: The training examples, float64.
        """
        x, y = batch["x"], batch["y"]

        def value(w: Tensor) -> Tensor:
            return self.loss(x @ w, y).mean() + 0.5 * (l2 * w.square()).sum()

        def slope_and_hessian(w: Tensor) -> tuple[Tensor, Tensor]:
            slopes, curvatures = self.derivatives(x @ w, y)
            hessian = x.T * curvatures @ x / len(y) + torch.diag(l2)
            return slopes @ x / len(y) + l2 * w, hessian

        w = torch.zeros_like(l2)
        for _ in range(NEWTON_STEPS):
            gradient, hessian = slope_and_hessian(w)
            step = torch.linalg.solve_ex(hessian, gradient).result
            decrease, here, size = gradient @ step, value(w), 1.0
            # Far above the rounding of f, and so near that one full step more is exact.
            if not decrease > 1e-12 * (1 + here):
                w = w - step
                break
            while value(w - size * step) > here - 0.1 * size * decrease and size > 1e-6:
                size /= 2
            w = w - size * step
        return w, slope_and_hessian(w)[1]

    def derivatives(self, score: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The first and second derivatives of the losses in the scores."""

        def slopes(score: Tensor) -> Tensor:
            return autodiff.grad(lambda s: self.loss(s, y).sum())(score)

        return slopes(score), autodiff.grad(lambda s: slopes(s).sum())(score)

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `hyperparameters.csv`: feature, its lambda, exp(lambda), and the last w."""
        import pandas as pd  # here: a run does not wait for it

        path = directory / "hyperparameters.csv"
        log_l2, weight = outer["log_l2"].cpu(), inner["weight"].cpu()
        columns = {
            "feature": range(len(weight)),
            "log_l2": log_l2.numpy(),
            "l2": log_l2.exp().numpy(),
            "weight": weight.numpy(),
        }
        pd.DataFrame(columns).to_csv(path, index=False)
        return [path]


class LogisticRegression(FeaturePenalties):
    """Feature penalties of logistic regression: loss log(1 + exp(-y x . w)) with y = -1 or 1.

    Args: as `FeaturePenalties`.
    """

    needs = Rows

    def as_batch(self, part: Labelled, device: torch.device) -> Batch:
        if len(part.y) and part.y.max() > 1:
            raise ValueError(
                "LogisticRegression needs two classes, labels 0 and 1, got "
                f"{int(part.y.max())}. Use task=hpo."
            )
        batch = super().as_batch(part, device)
        return {**batch, "y": 2 * batch["y"] - 1}

    def loss(self, score: Tensor, y: Tensor) -> Tensor:
        return -logsigmoid(y * score)

    def accuracies(self, score: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"accuracy": ((score >= 0) == (y > 0)).to(score.dtype).mean()}


class RidgeRegression(FeaturePenalties):
    """Feature penalties of least squares: loss (x . w - y)^2 / 2.

    Args: as `FeaturePenalties`.
    """

    needs = Regression

    def loss(self, score: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (score - y).square()

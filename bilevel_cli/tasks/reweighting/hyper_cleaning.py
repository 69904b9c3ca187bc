"""Data hyper-cleaning: one learned weight for every training example."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core.blocks import Blocks
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples, Labelled, Splits
from bilevel_cli.tasks.reweighting import rare_classes
from bilevel_cli.tasks.reweighting.base import Reweighting
from bilevel_cli.tasks.reweighting.folds import CleanExamples, Folds, Judge
from bilevel_cli.tasks.reweighting.noise import Corruption
from bilevel_cli.tasks.reweighting.weights import Weights


class HyperCleaning(Reweighting):
    """Data hyper-cleaning (Franceschi et al., 2017, arXiv:1703.01785): one lambda_i an example.

        f(z, lambda) = mean_i w_i(lambda) CE_i(z) + l2 |z|^2   on training examples
        F(z)         = mean_i CE_i(z)                          on clean validation examples

    Without clean examples, `folds` cross-fits. All examples, training, validation and test ones,
    are cut into k folds, and the classifier z_j is trained on those outside of fold j:

        f_j(z_j, lambda) = mean_{i not in fold j} w_i CE_i(z_j) + l2 |z_j|^2
        F(z, lambda)     = mean_i w_i (CE_i(z_fold(i)) - log C) - entropy(w_i)
        w                = sigmoid(lambda)

    F is, up to a constant, the variational free energy of a mixture: with probability 1/2 a label
    is drawn by the classifier that has not seen it, else uniformly from the C classes. If lambda
    had no influence on z, w_i would become the posterior probability p_i / (p_i + 1/C) that the
    classifier drew the label, where p_i is what z_fold(i) gives to it. The mean loss of held-out
    examples would not do: their wrong labels vote too (docs/reweight.md). The k inner problems are
    episodes, which methods and starts that remember refuse.

    Scores: as `Reweighting`. While all examples are called clean, precision is the share of clean
    labels, recall is 1, and F1 at 50 % noise is 2/3. A perfect cleaner has F1 = 1 if all flagged
    labels are wrong. With folds the accuracy is that of z_fold(i) at i, on the labels of the
    source.

    Args:
        noise: What is done to the training examples.
        weights: w(lambda).
        folds: k >= 2, or null to use clean validation examples.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the noise, the start of the classifier and the folds.
    """

    def __init__(
        self,
        noise: Corruption,
        weights: Weights,
        folds: int | None,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        parts = data.splits(generator)
        if folds is not None:
            every = _joined(parts)
            _check_folds(folds, len(every.y), weights)
            parts = Splits(every, every, every)
        super().__init__(
            *(noise, batch_size, outer_batch_size, l2, parts, data, model, device, generator)
        )
        self.weights = weights
        self.judge: Judge = CleanExamples()
        if folds is not None:
            fold = data.folds(self.train.y.cpu(), folds, generator)
            self.judge = self._cross_fit(fold, folds, outer_batch_size)

    def _cross_fit(self, fold: Tensor, count: int, outer_batch_size: int | None) -> Folds:
        """Makes an episode of each fold, in which all examples are judged."""
        x, y = self.train.x, self.train.y
        if len(y) < len(self.test.y):
            raise ValueError(
                f"HyperCleaning cross-fits all examples, got noise that keeps {len(y)} of "
                f"{len(self.test.y)}. Use task/noise=none or task.folds=null."
            )
        rows = torch.arange(len(y), device=y.device)
        self.outer_blocks = Blocks({"x": x, "y": y, "index": rows}, outer_batch_size)
        self.episodes, self.blocks = count, None
        self.rare = rare_classes.of_folds(y, len(self.class_names), count)
        self.statement = self.told(f"Examples: {len(y)}, in {count} folds.")
        return Folds(fold.to(y.device), count, self.weights.name)

    def init_outer(self, generator: torch.Generator) -> Params:
        weights = self.weights.init(len(self.train.y))
        return {self.weights.name: weights.to(self.train.x.device, torch.get_default_dtype())}

    def project_outer(self, outer: Params) -> Params:
        name = self.weights.name
        return {**outer, name: self.weights.project(outer[name])}

    def batch_weights(self, inner: Params, outer: Params, losses: Tensor, batch: Batch) -> Tensor:
        return self.weights.of(outer[self.weights.name][batch["index"]])

    def example_weights(self, outer: Params, inner: Params) -> Tensor:
        return self.weights.of(outer[self.weights.name])

    def called_clean(self, weights: Tensor) -> Tensor:
        return weights >= self.weights.threshold

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return self.judge.spread(super().sample(num_steps, generator))

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.judge.outer_loss(self, inner, outer, batch)

    def accuracies(self, outer: Params, inner: Params) -> dict[str, Tensor]:
        return self.judge.accuracies(self, outer, inner)

    def suggested(self, inner: Params) -> Tensor:
        return self.judge.suggested(self, inner)

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `weights.csv`, and with folds what their classifiers expect."""
        written = super().save_result(directory, outer, inner)
        return written + self.judge.save(self, directory, inner)


def _joined(parts: Splits) -> Labelled:
    """Training, validation and test examples, one after the other."""
    return Labelled(*(torch.cat([getattr(p, n) for p in parts]) for n in ("x", "y", "index")))


def _check_folds(folds: int, count: int, weights: Weights) -> None:
    if not 2 <= folds <= count:
        raise ValueError(
            f"HyperCleaning needs folds from 2 to {count}, all its examples, got folds={folds}. "
            "Use task.folds=5, or null where there are clean validation examples."
        )
    if not weights.probabilities:
        raise ValueError(
            "HyperCleaning needs weights that are probabilities to cross-fit, got "
            f"{type(weights).__name__}. Use task/weights=sigmoid or task.folds=null."
        )

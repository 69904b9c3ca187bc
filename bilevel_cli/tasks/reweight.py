"""Data reweighting: a weight for every training example, learned on clean validation data."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bilevel_cli import trees
from bilevel_cli.data.base import Examples, Labelled
from bilevel_cli.loop import InnerLoop
from bilevel_cli.models import build
from bilevel_cli.problem import Batch, StepData
from bilevel_cli.starts.base import LEARNED_PREFIX
from bilevel_cli.tasks.base import Task
from bilevel_cli.trees import Params


class HyperCleaning(Task):
    """Data hyper-cleaning (Franceschi et al., 2017, arXiv:1703.01785).

        f(z, lambda) = mean_i sigmoid(lambda_i) CE_i(z) on training examples with noisy labels
        F(z)         = mean_i CE_i(z) on clean validation examples

    Scores: accuracy on the test examples of the last inner iterate, and of the learned start where
    there is one, which sees validation data directly; precision, recall and F1 of the cleaning,
    where an example with weight >= 1/2 counts as called clean. All weights are 1/2 at first, so
    precision is then the share of clean labels, recall 1, and F1 at 50 % noise 2/3. A perfect
    cleaner has F1 = 1, since every flagged label is wrong.

    Args:
        noise: Share of training labels that are made wrong, in [0, 1).
        batch_size: Training examples of an inner step, drawn so that each comes once before any
            comes again; null for all of them.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the noise and the start of the classifier.
    """

    needs = Examples

    def __init__(
        self,
        noise: float,
        batch_size: int | None,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not 0 <= noise < 1:
            raise ValueError(f"HyperCleaning needs noise in [0, 1), got noise={noise}.")
        train, validation, test = data.splits(generator)
        if batch_size is not None and not 1 <= batch_size <= len(train.y):
            raise ValueError(
                f"HyperCleaning needs 1 <= batch_size <= {len(train.y)} training examples, "
                f"got batch_size={batch_size}. Use batch_size=null for all of them."
            )
        # Labels are corrupted once, here: drawn per batch, the noise would average out.
        labels, self.flag = corrupt_labels(train.y, data.num_classes, noise, generator)
        self.train = _to(Labelled(train.x, labels, train.index), device)
        self.validation, self.test = _to(validation, device), _to(test, device)
        self.rows = torch.arange(len(train.y), device=device)
        self.statement = (
            f"Examples: {len(train.y)} for training, {int(self.flag.sum())} of them with a wrong "
            f"label; {len(validation.y)} for validation; {len(test.y)} for test."
        )
        self.batch_size = batch_size
        self.model = build(model, tuple(train.x.shape[1:]), data.num_classes, device)
        self._start = self.model.init(generator)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"weight_logits": torch.zeros_like(self.train.y, dtype=self.train.x.dtype)}

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        train = {"x": self.train.x, "y": self.train.y, "index": self.rows}
        if self.batch_size is None:
            inner = {name: value.expand(num_steps, *value.shape) for name, value in train.items()}
        else:
            rows = self._minibatches(num_steps, generator)
            inner = {name: value[rows] for name, value in train.items()}
        outer = {"x": self.validation.x, "y": self.validation.y}
        return StepData(self._start, inner, outer)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        weights = outer["weight_logits"][batch["index"]].sigmoid()
        losses = cross_entropy(self.model.apply(inner, batch["x"]), batch["y"], reduction="none")
        return (weights * losses).mean()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return cross_entropy(self.model.apply(inner, batch["x"]), batch["y"])

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores = {"test_accuracy": self._accuracy(inner)}
        start = trees.under(LEARNED_PREFIX, outer)
        if start:
            scores["start_test_accuracy"] = self._accuracy(start)
        return scores | cleaning_scores(
            outer["weight_logits"] >= 0, self.flag.to(self.test.y.device)
        )

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `weights.csv`, the most suspicious examples first.

        Columns: index of the example in its source, weight in [0, 1], label as trained on, flag 1
        where the label was made wrong.
        """
        path = directory / "weights.csv"
        table = pd.DataFrame(
            {
                "index": self.train.index.cpu().numpy(),
                "weight": outer["weight_logits"].sigmoid().cpu().numpy(),
                "label": self.train.y.cpu().numpy(),
                "flag": self.flag.int().numpy(),
            }
        )
        table.sort_values(["weight", "index"]).to_csv(path, index=False)
        return [path]

    def _minibatches(self, num_steps: int, generator: torch.Generator) -> Tensor:
        """Rows of shape [num_steps, batch_size], each example once in every pass."""
        count, device = len(self.train.y), self.train.y.device
        wanted = num_steps * (self.batch_size or count)
        passes = [
            torch.randperm(count, generator=generator, device=device)
            for _ in range(-(-wanted // count))
        ]
        return torch.cat(passes)[:wanted].reshape(num_steps, -1)

    def _accuracy(self, inner: Params) -> Tensor:
        predicted = self.model.apply(inner, self.test.x).argmax(1)
        return (predicted == self.test.y).to(self.test.x.dtype).mean()


def corrupt_labels(
    labels: Tensor, num_classes: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Symmetric label noise: round(noise * n) labels become another class, each alike likely.

    No flagged label is right, unlike in the published generators that draw among all classes and
    so leave a tenth of the flagged labels of ten classes as they were.

    Args:
        labels: True labels, of shape [n].
        num_classes: Number of classes.
        noise: Share of labels to change, in [0, 1).
        generator: On the CPU.

    Returns:
        The labels, and a mask of those that were changed, both of shape [n].
    """
    changed = torch.randperm(len(labels), generator=generator)[: round(noise * len(labels))]
    shift = torch.randint(1, num_classes, changed.shape, generator=generator)
    noisy, flag = labels.clone(), torch.zeros_like(labels, dtype=torch.bool)
    noisy[changed] = (labels[changed] + shift) % num_classes
    flag[changed] = True
    return noisy, flag


def cleaning_scores(called_clean: Tensor, flag: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 of calling examples clean.

    Args:
        called_clean: What the weights say, boolean, of shape [n].
        flag: Which labels are wrong, boolean, of shape [n].
    """
    hits = (called_clean & ~flag).sum().to(torch.get_default_dtype())
    called, clean = called_clean.sum(), (~flag).sum()
    return {
        "precision": hits / called.clamp(min=1),
        "recall": hits / clean.clamp(min=1),
        "f1": 2 * hits / (called + clean).clamp(min=1),
    }


def _to(examples: Labelled, device: torch.device) -> Labelled:
    dtype = torch.get_default_dtype()
    return Labelled(examples.x.to(device, dtype), examples.y.to(device), examples.index.to(device))

"""Data reweighting: a weight for every training example, learned on clean validation data."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bilevel_cli import trees
from bilevel_cli.data.base import Examples, Labelled
from bilevel_cli.data.blocks import Blocks, check_batch_size, mean
from bilevel_cli.loop import InnerLoop
from bilevel_cli.models import build
from bilevel_cli.problem import Batch, StepData
from bilevel_cli.starts.base import LEARNED_PREFIX
from bilevel_cli.tasks.base import Task
from bilevel_cli.trees import Params


class HyperCleaning(Task):
    """Data hyper-cleaning (Franceschi et al., 2017, arXiv:1703.01785).

        f(z, lambda) = mean_i sigmoid(lambda_i) CE_i(z) + l2 |z|^2
                       on training examples with noisy labels
        F(z)         = mean_i CE_i(z) on clean validation examples

    Scores: accuracy on the test examples of the last inner iterate, and of the learned start where
    there is one, which sees validation data directly; precision, recall and F1 of the cleaning,
    where an example with weight >= 1/2 counts as called clean. If all weights are 1/2 at first,
    precision is then the share of clean labels, recall 1, and F1 at 50 % noise 2/3. A perfect
    cleaner has F1 = 1, since every flagged label is wrong.

    Minibatches are blocks (`bilevel_cli.data.blocks`): cut once, each drawn once in an epoch.

    Args:
        noise: Share of training labels that are corrupted, in [0, 1).
        corruption: "symmetric": exactly that share of labels, each made another class. "uniform":
            each label with that probability, drawn anew among all classes, so that a tenth of
            those of ten classes stays right, and is not flagged.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        initial_logit: lambda_i at first: 0 for weights of 1/2.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the noise and the start of the classifier.
    """

    needs = Examples

    def __init__(
        self,
        noise: float,
        corruption: str,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        initial_logit: float,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not 0 <= noise < 1:
            raise ValueError(f"HyperCleaning needs noise in [0, 1), got noise={noise}.")
        if corruption not in CORRUPTIONS:
            raise ValueError(
                f"HyperCleaning needs corruption to be one of {', '.join(CORRUPTIONS)}, "
                f"got corruption={corruption}."
            )
        if not 0 <= l2 < math.inf:
            raise ValueError(f"HyperCleaning needs a finite l2 >= 0, got l2={l2}.")
        if not math.isfinite(initial_logit):
            raise ValueError(
                f"HyperCleaning needs a finite initial_logit, got initial_logit={initial_logit}."
            )
        train, validation, test = data.splits(generator)
        if not len(test.y):
            raise ValueError("HyperCleaning needs test examples, got none. Set data.test.")
        check_batch_size("HyperCleaning", "batch_size", batch_size, len(train.y))
        check_batch_size("HyperCleaning", "outer_batch_size", outer_batch_size, len(validation.y))
        # Labels are corrupted once, here: drawn per batch, the noise would average out.
        corrupt = CORRUPTIONS[corruption]
        labels, self.flag = corrupt(train.y, data.num_classes, noise, generator)
        self.train = _to(Labelled(train.x, labels, train.index), device)
        self.validation, self.test = _to(validation, device), _to(test, device)
        rows = torch.arange(len(train.y), device=device)
        self.train_blocks = Blocks(
            {"x": self.train.x, "y": self.train.y, "index": rows}, batch_size
        )
        self.validation_blocks = Blocks(
            {"x": self.validation.x, "y": self.validation.y}, outer_batch_size
        )
        self.blocks: tuple[int, int] = self.train_blocks.count, self.validation_blocks.count
        self.statement = (
            f"Examples: {len(train.y)} for training, {int(self.flag.sum())} of them with a wrong "
            f"label; {len(validation.y)} for validation; {len(test.y)} for test."
        )
        self.l2, self.initial_logit = l2, initial_logit
        self.model = build(model, tuple(train.x.shape[1:]), data.num_classes, device)
        self._start = self.model.init(generator)

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"weight_logits": self.train.x.new_full(self.train.y.shape, self.initial_logit)}

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        inner = self.train_blocks.draw("inner", num_steps, generator)
        return StepData(self._start, inner, self.validation_blocks.one("outer", generator))

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        weights = outer["weight_logits"][batch["index"]].sigmoid()
        losses = cross_entropy(self.model.apply(inner, batch["x"]), batch["y"], reduction="none")
        loss = mean(weights * losses, batch)
        return loss + self.l2 * trees.dot(inner, inner) if self.l2 else loss

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        logits = self.model.apply(inner, batch["x"])
        if "weight" not in batch:  # its own sum, which another order of adding would not repeat
            return cross_entropy(logits, batch["y"])
        return mean(cross_entropy(logits, batch["y"], reduction="none"), batch)

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

    def _accuracy(self, inner: Params) -> Tensor:
        predicted = self.model.apply(inner, self.test.x).argmax(1)
        return (predicted == self.test.y).to(self.test.x.dtype).mean()


def corrupt_labels(
    labels: Tensor, num_classes: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Symmetric label noise: round(noise * n) labels become another class, each alike likely.

    No flagged label is right, unlike with the published generators that draw among all classes and
    flag what they drew: a tenth of the flagged labels of ten classes are as they were.

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


def redraw_labels(
    labels: Tensor, num_classes: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Uniform label noise: each label, with probability `noise`, is drawn anew among all classes.

    Args and returns: as `corrupt_labels`; the mask is of labels that are wrong, not of all drawn.
    """
    redrawn = torch.rand(labels.shape, generator=generator) < noise
    drawn = torch.randint(0, num_classes, labels.shape, generator=generator)
    noisy = torch.where(redrawn, drawn, labels)
    return noisy, noisy != labels


CORRUPTIONS = {"symmetric": corrupt_labels, "uniform": redraw_labels}


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

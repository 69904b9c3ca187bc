"""Data reweighting: a weight for every training example, learned on other examples."""

import abc
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bilevel_cli.core import trees
from bilevel_cli.core.blocks import Blocks, check_batch_size, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples, Labelled, Splits
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.reweighting.noise import Corruption
from bilevel_cli.tasks.reweighting.weights import Weights

CHUNK = 2000  # examples that an evaluation holds in memory at once


class Reweighting(Task):
    """A classifier z, trained on examples of which some deserve little weight.

        f(z, lambda) = mean_i w_i CE_i(z) + l2 |z|^2   on training examples
        F(z)         = mean_i CE_i(z)                  on validation examples

    Where w comes from is what its kinds differ in.

    Scores: accuracy on the test examples of the last inner iterate, and of the learned start where
    there is one, which sees validation data directly. Where examples are flagged, by what corrupted
    them: precision, recall and F1 of calling examples clean, and the average precision of the
    flagged among those of low weight.

    Minibatches are blocks (`bilevel_cli.core.blocks`): cut once, each drawn once in an epoch.

    Args:
        noise: What is done to the training examples.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        parts: The examples.
        data: Where they are from.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the noise and the start of the classifier.
    """

    needs = Examples

    def __init__(
        self,
        noise: Corruption,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        parts: Splits,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        who = type(self).__name__
        if not 0 <= l2 < math.inf:
            raise ValueError(f"{who} needs a finite l2 >= 0, got l2={l2}. Set task.l2.")
        train, validation, test = parts
        if not len(test.y):
            raise ValueError(f"{who} needs test examples, got none. Set data.test.")
        # Labels are corrupted once, here: drawn per batch, the noise would average out.
        source = train
        train, flag = noise(source, data.num_classes, generator)
        self.wrong = ""
        if flag is not None:
            self.wrong = f", {int((train.y != source.y).sum())} of them with a wrong label"
        check_batch_size(who, "batch_size", batch_size, len(train.y))
        check_batch_size(who, "outer_batch_size", outer_batch_size, len(validation.y))
        self.train, self.validation, self.test = (
            part.to(device) for part in (train, validation, test)
        )
        self.flag = None if flag is None else flag.to(device)
        rows = torch.arange(len(train.y), device=device)
        self.train_blocks = Blocks(
            {"x": self.train.x, "y": self.train.y, "index": rows}, batch_size
        )
        self.validation_blocks = Blocks(
            {"x": self.validation.x, "y": self.validation.y}, outer_batch_size
        )
        self.blocks: tuple[int, int] | None
        self.blocks = self.train_blocks.count, self.validation_blocks.count
        self.statement = (
            f"Examples: {len(train.y)} for training{self.wrong}; "
            f"{len(validation.y)} for validation; {len(test.y)} for test."
        )
        self.l2, self.class_names = l2, np.array(data.class_names)
        shape = tuple(train.x.shape[1:])
        self.model = build(model, shape, data.num_classes, device, generator, self.train.x)
        self._start = self.model.init(generator)

    @abc.abstractmethod
    def batch_weights(self, inner: Params, outer: Params, losses: Tensor, batch: Batch) -> Tensor:
        """The weights of a minibatch of training examples, of shape [batch_size].

        Args:
            inner: The inner parameters.
            outer: The outer parameters.
            losses: Of the examples, of shape [batch_size].
            batch: The minibatch.
        """

    @abc.abstractmethod
    def example_weights(self, outer: Params, inner: Params) -> Tensor:
        """The weights of all training examples, of shape [n]."""

    def called_clean(self, weights: Tensor) -> Tensor:
        """Which examples these weights call clean: those of at least half the mean weight."""
        return weights >= weights.mean() / 2

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        inner = self.train_blocks.draw("inner", num_steps, generator)
        return StepData(self._start, inner, self.validation_blocks.one("outer", generator))

    def losses(self, inner: Params, batch: Batch) -> Tensor:
        """CE_i(z), of shape [batch_size]."""
        return cross_entropy(self.model.apply(inner, batch["x"]), batch["y"], reduction="none")

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        losses = self.losses(inner, batch)
        loss = mean(self.batch_weights(inner, outer, losses, batch) * losses, batch)
        return loss + self.l2 * trees.dot(inner, inner) if self.l2 else loss

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        if "weight" not in batch:  # its own sum, which another order of adding would not repeat
            return cross_entropy(self.model.apply(inner, batch["x"]), batch["y"])
        return mean(self.losses(inner, batch), batch)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores = self.accuracies(outer, inner)
        if self.flag is not None:
            weights = self.example_weights(outer, inner)
            scores |= cleaning_scores(self.called_clean(weights), self.flag)
            scores["average_precision"] = average_precision(-weights, self.flag)
        return scores

    def accuracies(self, outer: Params, inner: Params) -> dict[str, Tensor]:
        """The scores of classifiers."""
        models = {"test_accuracy": inner, "start_test_accuracy": trees.under(LEARNED_PREFIX, outer)}
        return {
            name: self._share(self.predicted(model, self.test.x) == self.test.y)
            for name, model in models.items()
            if model
        }

    def predicted(self, inner: Params, x: Tensor) -> Tensor:
        """The class that the classifier gives to each input."""
        parts = torch.split(x, CHUNK)
        return torch.cat([self.model.apply(inner, part).argmax(1) for part in parts])

    def train_chunks(self) -> list[Batch]:
        """The training examples, a few at a time."""
        parts = zip(torch.split(self.train.x, CHUNK), torch.split(self.train.y, CHUNK), strict=True)
        return [{"x": x, "y": y} for x, y in parts]

    def suggested(self, inner: Params) -> Tensor:
        """The class that the classifier gives to each training example."""
        return self.predicted(inner, self.train.x)

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `weights.csv`, the most suspicious examples first.

        Columns: index of the example in its source, weight, label as trained on, flag 1 where the
        noise flagged it, and the label that the classifier suggests.
        """
        import pandas as pd  # here: a run does not wait for it

        path = directory / "weights.csv"
        columns = {
            "index": self.train.index.cpu().numpy(),
            "weight": self.example_weights(outer, inner).cpu().numpy(),
            "label": self.class_names[self.train.y.cpu().numpy()],
        }
        if self.flag is not None:
            columns["flag"] = self.flag.int().cpu().numpy()
        columns["suggested"] = self.class_names[self.suggested(inner).cpu().numpy()]
        pd.DataFrame(columns).sort_values(["weight", "index"]).to_csv(path, index=False)
        return [path]

    def _share(self, which: Tensor) -> Tensor:
        return which.to(torch.get_default_dtype()).mean()


class HyperCleaning(Reweighting):
    """Data hyper-cleaning (Franceschi et al., 2017, arXiv:1703.01785): one lambda_i an example.

        f(z, lambda) = mean_i w_i(lambda) CE_i(z) + l2 |z|^2   on training examples
        F(z)         = mean_i CE_i(z)                          on clean validation examples

    Without clean examples, `folds` cross-fits. All examples, training, validation and test ones,
    are cut into k folds, and the classifier z_j is trained on those outside of fold j:

        f_j(z_j, lambda) = mean_{i not in fold j} w_i CE_i(z_j) + l2 |z_j|^2
        F(z, lambda)     = mean_i w_i (CE_i(z_fold(i)) - log C) - entropy(w_i)
        w                = sigmoid(lambda)

    F is, up to a constant, the variational free energy of a mixture: each of the C labels is, with
    probability 1/2, drawn by a classifier that has not seen it, else uniformly. If lambda had no
    influence on z, w_i would be the posterior probability p_i / (p_i + 1/C) that the classifier
    drew it, p_i being what z_fold(i) gives to that label. The mean loss of held-out examples would
    not do: its wrong labels vote too (docs/reweight.md). The k inner problems are episodes, which
    methods and starts that remember refuse.

    Scores: as `Reweighting`. While all examples are called clean, precision is the share of clean
    labels, recall 1, and F1 at 50 % noise 2/3. Where all flagged labels are wrong a perfect cleaner
    has F1 = 1. With folds the accuracy is that of z_fold(i) at i, on the labels of the source.

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
            rows = _joined(parts)
            _check_folds(folds, len(rows.y), weights)
            parts = Splits(rows, rows, rows)
        super().__init__(
            *(noise, batch_size, outer_batch_size, l2, parts, data, model, device, generator)
        )
        self.weights = weights
        self.fold: Tensor | None = None
        if folds is not None:
            self._cross_fit(folds, outer_batch_size, device, generator)

    def _cross_fit(
        self,
        folds: int,
        outer_batch_size: int | None,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        count = len(self.train.y)
        if count < len(self.test.y):
            raise ValueError(
                f"HyperCleaning cross-fits all examples, got noise that keeps {count} of "
                f"{len(self.test.y)}. Use task/noise=none or task.folds=null."
            )
        self.episodes, self.blocks = folds, None
        rows = torch.arange(count, device=device)
        self.validation_blocks = Blocks(
            {"x": self.train.x, "y": self.train.y, "index": rows}, outer_batch_size
        )
        self.fold = (torch.randperm(count, generator=generator) % folds).to(device)
        dtype = torch.get_default_dtype()
        held_out = (self.fold == torch.arange(folds, device=device)[:, None]).to(dtype)
        # Of shape [folds, n], such that means over all examples are means over those they keep.
        self.in_f = (1 - held_out) / (1 - held_out).mean(1, keepdim=True)
        self.in_F = held_out * folds  # and the mean over folds that over all examples
        self.statement = f"Examples: {count}{self.wrong}, in {folds} folds."

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
        data = super().sample(num_steps, generator)
        if self.fold is None:
            return data
        folds = len(self.in_f)

        def each(batch: Batch, share: Tensor) -> Batch:
            index = batch["index"]
            weight = share[:, index] * batch.get("weight", 1 / index.shape[-1])
            return {n: v.expand(folds, *v.shape) for n, v in batch.items()} | {"weight": weight}

        init = {n: value.expand(folds, *value.shape) for n, value in data.init.items()}
        return StepData(init, each(data.inner, self.in_f), each(data.outer, self.in_F))

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        if self.fold is None:
            return super().outer_loss(inner, outer, batch)
        logits = outer[self.weights.name][batch["index"]]
        gain = self.losses(inner, batch) - math.log(len(self.class_names))
        # -entropy(w) = w logit - log(1 + exp(logit)), which is finite at w = 0 and 1.
        return mean(logits.sigmoid() * (gain + logits) - softplus(logits), batch)

    def accuracies(self, outer: Params, inner: Params) -> dict[str, Tensor]:
        if self.fold is None:
            return super().accuracies(outer, inner)
        return {"held_out_accuracy": self._share(self.suggested(inner) == self.test.y)}

    def suggested(self, inner: Params) -> Tensor:
        if self.fold is None:
            return super().suggested(inner)
        models = [{n: value[j] for n, value in inner.items()} for j in range(len(self.in_f))]
        every = torch.stack([self.predicted(model, self.train.x) for model in models])
        return every.gather(0, self.fold[None])[0]


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


def average_precision(suspicion: Tensor, flag: Tensor) -> Tensor:
    """The mean, over flagged examples, of the share of flagged ones among those ranked up to it.

    The area under the steps of the precision-recall curve; examples alike suspicious are ranked as
    they come.

    Args:
        suspicion: The larger, the earlier in the ranking; of shape [n].
        flag: Boolean, of shape [n].
    """
    found = flag[suspicion.argsort(descending=True, stable=True)].to(torch.get_default_dtype())
    ranks = torch.arange(1, len(flag) + 1, device=flag.device)
    return (found * found.cumsum(0) / ranks).sum() / found.sum().clamp(min=1)


def _joined(parts: Splits) -> Labelled:
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

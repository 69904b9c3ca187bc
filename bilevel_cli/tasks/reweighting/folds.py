"""Who judges classifiers and weights: clean validation examples, or folds that cross-fit."""

import abc
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bilevel_cli.core import trees
from bilevel_cli.core.blocks import CHUNK, mean
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.tasks.reweighting.base import Reweighting
from bilevel_cli.tasks.reweighting.scores import share

PROBABILITIES = "probabilities.csv"  # what classifiers expect of examples that they have not seen


class Judge(abc.ABC):
    """Says which classifiers are trained, what F is, and which scores classifiers get.

    `task` is the task that asks. It lends its model and its examples.
    """

    @abc.abstractmethod
    def spread(self, data: StepData) -> StepData:
        """The data of one outer step, from what a single classifier would see."""

    @abc.abstractmethod
    def outer_loss(self, task: Reweighting, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """F of one classifier, 0-dim. Args: as `Problem.outer_loss`."""

    @abc.abstractmethod
    def accuracies(self, task: Reweighting, outer: Params, inner: Params) -> dict[str, Tensor]:
        """The scores of classifiers. Args: as `Reweighting.accuracies`."""

    @abc.abstractmethod
    def suggested(self, task: Reweighting, inner: Params) -> Tensor:
        """The class that is suggested for each training example, int64, of shape [n]."""

    def save(self, task: Reweighting, directory: Path, inner: Params) -> list[Path]:
        """Writes what it knows besides weights, and returns the files. Args: as `save_result`."""
        return []


class CleanExamples(Judge):
    """One classifier, whose loss on clean validation examples is F."""

    def spread(self, data: StepData) -> StepData:
        return data

    def outer_loss(self, task: Reweighting, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return Reweighting.outer_loss(task, inner, outer, batch)

    def accuracies(self, task: Reweighting, outer: Params, inner: Params) -> dict[str, Tensor]:
        return Reweighting.accuracies(task, outer, inner)

    def suggested(self, task: Reweighting, inner: Params) -> Tensor:
        return Reweighting.suggested(task, inner)


class Folds(Judge):
    """A classifier for each of k folds, trained on the other folds and judged on its own.

        F(z, lambda) = mean_i w_i (CE_i(z_fold(i)) - log C) - entropy(w_i),   w = sigmoid(lambda)

    with C classes. All batches hold the numbers of their examples, `index`.

    Args:
        fold: The fold of each example, from 0 to count - 1, int64, of shape [n].
        count: k.
        logits: Name of the outer parameter lambda, of shape [n].
    """

    def __init__(self, fold: Tensor, count: int, logits: str) -> None:
        self.fold, self.count, self.logits = fold, count, logits
        own = fold == torch.arange(count, device=fold.device)[:, None]
        own = own.to(torch.get_default_dtype())
        # Of shape [count, n]. Weighted by in_f, a mean over all examples is that over the ones that
        # a fold trains on. Weighted by in_F, and averaged over folds, it is the mean over all.
        self.in_f = (1 - own) / (1 - own).mean(1, keepdim=True)
        self.in_F = own * count

    def spread(self, data: StepData) -> StepData:
        """The same minibatches for every fold, with weights of its own. Leading dimension: k."""

        def each(batch: Batch, shares: Tensor) -> Batch:
            index = batch["index"]
            # A full batch repeats over inner steps: its weights are stored once for all of them.
            rows = trees.narrow(index, index)
            share = batch.get("weight")
            stored = 1 / index.shape[-1] if share is None else trees.narrow(share, index)
            weight = (shares[:, rows] * stored).expand(self.count, *index.shape)
            return self._repeated(batch) | {"weight": weight}

        inner, outer = each(data.inner, self.in_f), each(data.outer, self.in_F)
        return StepData(self._repeated(data.init), inner, outer)

    def outer_loss(self, task: Reweighting, inner: Params, outer: Params, batch: Batch) -> Tensor:
        logits = outer[self.logits][batch["index"]]
        gain = task.losses(inner, batch) - math.log(len(task.class_names))
        # -entropy(w) = w logit - log(1 + exp(logit)), which is finite at w = 0 and 1.
        return mean(logits.sigmoid() * (gain + logits) - softplus(logits), batch)

    def accuracies(self, task: Reweighting, outer: Params, inner: Params) -> dict[str, Tensor]:
        return {"held_out_accuracy": share(task.suggested(inner) == task.test.y)}

    def suggested(self, task: Reweighting, inner: Params) -> Tensor:
        """Of each example, what the classifier says that has not seen it."""
        models = [{n: value[j] for n, value in inner.items()} for j in range(self.count)]
        every = torch.stack([task.predicted(model, task.train.x) for model in models])
        return every.gather(0, self.fold[None])[0]

    def save(self, task: Reweighting, directory: Path, inner: Params) -> list[Path]:
        """Writes `probabilities.csv`: of each example, what its classifier expects.

        Columns: index, which is what the source calls the example, fold, and the probability of
        each class by the classifier that has not seen the example, in the order of the source.
        """
        import pandas as pd  # here: a run does not wait for it

        path = directory / PROBABILITIES
        expected = self.probabilities(task, inner).cpu().numpy()
        table = pd.DataFrame(expected, columns=task.class_names)
        table.insert(0, "fold", self.fold.cpu().numpy(), allow_duplicates=True)
        table.insert(0, "index", task.names, allow_duplicates=True)
        order = np.argsort(task.train.index.cpu().numpy())
        table.iloc[order].to_csv(path, index=False, float_format="%.6g")
        return [path]

    def probabilities(self, task: Reweighting, inner: Params) -> Tensor:
        """What z_fold(i) gives to each class at example i, of shape [n, C]."""
        found = self.in_f.new_zeros(len(self.fold), len(task.class_names))
        for j in range(self.count):
            model = {name: value[j] for name, value in inner.items()}
            for rows in torch.split((self.fold == j).nonzero()[:, 0], CHUNK):
                found[rows] = task.model.apply(model, task.train.x[rows]).softmax(1)
        return found

    def _repeated(self, tensors: Params) -> Params:
        return {n: value.expand(self.count, *value.shape) for n, value in tensors.items()}

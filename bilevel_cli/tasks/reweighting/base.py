"""Data reweighting: a weight for every training example, learned on other examples."""

import abc
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bilevel_cli.core import trees
from bilevel_cli.core.blocks import CHUNK, in_chunks, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.base import Examples, Splits
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.reweighting import rare_classes
from bilevel_cli.tasks.reweighting.noise import Corruption
from bilevel_cli.tasks.reweighting.scores import average_precision, cleaning_scores, share


class Reweighting(OutputLoss, TwoSums):
    """A classifier z, trained on examples of which some deserve little weight.

        f(z, lambda) = mean_i w_i CE_i(z) + l2 |z|^2   on training examples
        F(z)         = mean_i CE_i(z)                  on validation examples

    A subclass says where the weights w come from.

    Scores: accuracy on the test examples, of the last inner iterate and of a learned start, which
    sees validation data directly. Where the noise flags examples: precision, recall and F1 of
    calling examples clean, and the average precision of the flagged among those of low weight.
    Labels of rare classes (`rare_classes`) are not judged: they count as clean, and rank last.

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
        self.change = noise.statement(source, train, own=not data.benchmark)
        self.train, self.validation, self.test = (
            part.to(device) for part in (train, validation, test)
        )
        self.flag = None if flag is None else flag.to(device)
        rows = torch.arange(len(train.y), device=device)
        examples = {"x": self.train.x, "y": self.train.y, "index": rows}
        judges = {"x": self.validation.x, "y": self.validation.y}
        self.cut(examples, judges, batch_size, outer_batch_size)
        self.l2, self.class_names = l2, np.array(data.class_names)
        self.names = data.names_of(train.index)
        self.rare = rare_classes.none(data.num_classes, device)
        if not data.benchmark:
            labels = self.train.y, self.validation.y
            self.rare = rare_classes.unseen(*labels, data.num_classes)
        trust = "" if data.benchmark else ", whose labels are taken to be right"
        self.statement = self.told(
            f"Examples: {len(train.y)} for training; {len(validation.y)} for validation{trust}; "
            f"{len(test.y)} for test."
        )
        shape = tuple(train.x.shape[1:])
        self.model = build(model, shape, data.num_classes, device, generator, self.train.x)
        self._start = self.model.init(generator)

    def told(self, examples: str) -> str:
        """The statement: how many examples there are, and what became of their labels."""
        said = [examples, self.change, self.rare.statement(self.class_names.tolist())]
        return " ".join(filter(None, said))

    @property
    def unjudged(self) -> Tensor:
        """Which training examples have labels that nobody can judge, boolean, of shape [n]."""
        return self.rare.rare[self.train.y]

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

    def whole(self) -> dict[str, Batch]:
        # Of episodes, a memory is refused.
        return super().whole() if self.episodes is None else {}

    def losses(self, inner: Params, batch: Batch) -> Tensor:
        """CE_i(z), of shape [batch_size]."""
        return cross_entropy(self.model.apply(inner, batch["x"]), batch["y"], reduction="none")

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.model.apply(inner, batch["x"])

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        losses = cross_entropy(outputs, batch["y"], reduction="none")
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
            called_clean = self.called_clean(weights) | self.unjudged
            scores |= cleaning_scores(called_clean, self.flag)
            suspicion = (-weights).masked_fill(self.unjudged, -math.inf)
            scores["average_precision"] = average_precision(suspicion, self.flag)
        return scores

    def accuracies(self, outer: Params, inner: Params) -> dict[str, Tensor]:
        """The scores of classifiers."""
        models = {"test_accuracy": inner, "start_test_accuracy": trees.under(LEARNED_PREFIX, outer)}
        return {
            name: share(self.predicted(model, self.test.x) == self.test.y)
            for name, model in models.items()
            if model
        }

    def predicted(self, inner: Params, x: Tensor) -> Tensor:
        """The class that the classifier gives to each input."""
        return in_chunks(lambda part: self.model.apply(inner, part).argmax(1), x)

    def train_chunks(self) -> list[Batch]:
        """The training examples, a few at a time."""
        parts = zip(torch.split(self.train.x, CHUNK), torch.split(self.train.y, CHUNK), strict=True)
        return [{"x": x, "y": y} for x, y in parts]

    def suggested(self, inner: Params) -> Tensor:
        """The class that the classifier gives to each training example."""
        return self.predicted(inner, self.train.x)

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `weights.csv`, the most suspicious examples first.

        Columns: index, which is what the source calls the example, weight, label as trained on,
        flag 1 where the noise flagged it, and the label that the classifier suggests. Examples of
        one weight are in the order of their source; those of rare classes come last, with neither
        weight nor suggestion.
        """
        import pandas as pd  # here: a run does not wait for it

        path = directory / "weights.csv"
        weights = self.example_weights(outer, inner).cpu().numpy()
        columns = {
            "index": self.names,
            "weight": weights,
            "label": self.class_names[self.train.y.cpu().numpy()],
        }
        if self.flag is not None:
            columns["flag"] = self.flag.int().cpu().numpy()
        columns["suggested"] = self.class_names[self.suggested(inner).cpu().numpy()]
        unjudged = self.unjudged.cpu().numpy()
        table = pd.DataFrame(columns)
        table.loc[unjudged, ["weight", "suggested"]] = None
        order = np.lexsort((self.train.index.cpu().numpy(), weights, unjudged))
        table.iloc[order].to_csv(path, index=False)
        return [path]

"""Hyperparameters of a classifier: penalties, label smoothing, augmentation."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws, trees
from bilevel_cli.core.blocks import in_chunks, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss, StepData
from bilevel_cli.core.random import INNER, OUTER
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.base import Examples
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.hyperparameters.augmentation import Augmentation
from bilevel_cli.tasks.hyperparameters.penalties import Penalty
from bilevel_cli.tasks.hyperparameters.smoothing import LabelSmoothing
from bilevel_cli.vocabulary import EVAL

MOST_COLUMNS = 50


class Hyperparameters(OutputLoss, TwoSums):
    """Settings of the training of a classifier, learned on validation examples.

        f(z, lambda) = mean_i CE(model_z(a(x_i, lambda)), s(y_i, lambda)) + R(z, lambda)
        F(z)         = mean_i CE(model_z(x_i), y_i)

    with an augmentation a of the training examples, their smoothed labels s, and a penalty R. Each
    of the three may be left out. Settings of the inner solver can be learned besides
    (solver=momentum_learned). The start of the inner parameters is the same at every outer step.
    Franceschi et al. (2017, arXiv:1703.01785) learn hyperparameters in this way, and Lorraine et
    al. (2020, arXiv:1911.02590) learn millions of them.

    A run of method=none trains with the initial hyperparameters, as a sweeper needs it.

    Scores: mean loss and accuracy of the last inner iterate on validation and, if there are some,
    test examples; then the hyperparameters, those of the solver too. Where there are more than 50,
    the least, the median and the largest of each kind stand for them. A gradient method has moved
    them once since it trained that iterate.

    Minibatches are blocks (`bilevel_cli.core.blocks`): cut once, each drawn once in an epoch. The
    random numbers of an augmentation are drawn anew for each inner step.

    Args:
        penalty: R, or null.
        smoothing: s, or null.
        augmentation: Makes a, given the shape of an example and the device; or null.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split and the start of the classifier.
    """

    needs = Examples

    def __init__(
        self,
        penalty: Penalty | None,
        smoothing: LabelSmoothing | None,
        augmentation: Callable[..., Augmentation] | None,
        batch_size: int | None,
        outer_batch_size: int | None,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        parts = data.splits(generator)._asdict()
        sizes = {n: len(part.y) for n, part in parts.items()}
        placed = {name: part.to(device) for name, part in parts.items()}
        self.examples = {name: {"x": part.x, "y": part.y} for name, part in placed.items()}
        both = self.examples["train"], self.examples["validation"]
        self.cut(*both, batch_size, outer_batch_size)
        self.statement = f"Examples: {', '.join(f'{size} for {n}' for n, size in sizes.items())}."
        shape = tuple(parts["train"].x.shape[1:])
        self.model = build(
            model, shape, data.num_classes, device, generator, self.examples["train"]["x"]
        )
        self._start = self.model.init(generator)
        self.penalty, self.smoothing = penalty, smoothing
        self.augmentation = augmentation and augmentation(input_shape=shape, device=device)

    def init_outer(self, generator: torch.Generator) -> Params:
        outer: Params = {}
        if self.penalty:
            outer |= self.penalty.init(self._start)
        if self.smoothing:
            outer |= self.smoothing.init()
        if self.augmentation:
            outer |= self.augmentation.init(generator)
        device, dtype = self.examples["train"]["x"].device, torch.get_default_dtype()
        return {name: value.to(device, dtype) for name, value in outer.items()}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        inner = self.inner_blocks.draw(INNER, num_steps, generator)
        if self.augmentation:
            shape = (*inner["y"].shape, *self.augmentation.noise_shape)
            inner["noise"] = draws.normal(*shape, generator=generator)
        return StepData(self._start, inner, self.outer_blocks.one(OUTER, generator))

    def whole(self) -> dict[str, Batch]:
        # An augmented sum has no end: its noise is drawn anew.
        return {} if self.augmentation else super().whole()

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        x = batch["x"]
        if self.augmentation:
            x = self.augmentation(x, outer, batch["noise"])
        return self.model.apply(inner, x)

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        if self.smoothing:
            loss = mean(self.smoothing.losses(outputs, batch["y"], outer), batch)
        else:
            loss = mean(cross_entropy(outputs, batch["y"], reduction="none"), batch)
        return loss + self.penalty(inner, outer) if self.penalty else loss

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        logits = self.model.apply(inner, batch["x"])
        return mean(cross_entropy(logits, batch["y"], reduction="none"), batch)

    def project_outer(self, outer: Params) -> Params:
        return self.penalty.project(outer) if self.penalty else outer

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores = {}
        for part in ("validation", "test"):
            x, y = self.examples[part]["x"], self.examples[part]["y"]
            if len(y):
                logits = in_chunks(partial(self.model.apply, inner), x)
                scores[f"{part}_loss"] = cross_entropy(logits, y)
                scores[f"{part}_accuracy"] = (logits.argmax(1) == y).to(logits.dtype).mean()
        learned = trees.prefixed("solver.", loop.solver.settings(outer))
        for kind in (self.penalty, self.smoothing, self.augmentation):
            learned |= kind.values(outer) if kind else {}
        return scores | _columns(learned)

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `outer.pt`, and `hyperparameters.csv`: eval.csv with the best row marked.

        Its column `best` is 1 at the first evaluation of least validation loss, 0 elsewhere.
        """
        import pandas as pd  # here: a run does not wait for it

        files = super().save_result(directory, outer, inner)
        evaluations = directory / EVAL
        if evaluations.exists():
            table = pd.read_csv(evaluations)
            losses = table["validation_loss"].fillna(math.inf)
            table["best"] = (losses.index == losses.idxmin()).astype(int)
            path = directory / "hyperparameters.csv"
            table.to_csv(path, index=False)
            files.append(path)
        return files


def _columns(values: Params) -> dict[str, Tensor]:
    """Numbers by name: all entries, or a summary of each tensor where there are too many."""
    columns = {}
    for name, value in values.items():
        if not value.dim():
            columns[name] = value
        elif trees.size(values) <= MOST_COLUMNS:
            columns |= {f"{name}.{number}": entry for number, entry in enumerate(value.flatten())}
        else:
            columns |= {
                f"{name}.min": value.min(),
                f"{name}.median": value.median(),
                f"{name}.max": value.max(),
            }
    return columns

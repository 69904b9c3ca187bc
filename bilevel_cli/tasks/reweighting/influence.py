"""Influence of training rows: what leaving one out does to the validation loss."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bilevel_cli.core.blocks import Blocks
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples
from bilevel_cli.tasks.reweighting.base import Reweighting
from bilevel_cli.tasks.reweighting.noise import Corruption
from bilevel_cli.tasks.reweighting.removal import Outers, Removal
from bilevel_cli.tasks.reweighting.scores import rank_correlation
from bilevel_cli.vocabulary import HIGHER_IS_BETTER

NAME = "effects"  # of the outer parameter


class Effects(NamedTuple):
    """What leaving out each of some rows does to F, by three accounts, each of shape [m].

    Attributes:
        predicted: By the hypergradient.
        pbrf: At the proximal Bregman responses.
        retrained: At the classifiers that are trained without the row.
        unsolved: The largest gradient that the responses leave, as a share of the first, 0-dim.
    """

    predicted: Tensor
    pbrf: Tensor
    retrained: Tensor
    unsolved: Tensor


class Known(NamedTuple):
    """The effects that were found last, and for what."""

    loop: InnerLoop
    outer: Params
    effects: Effects

    def answers(self, loop: InnerLoop, outer: Params) -> bool:
        """Whether they are those of this loop and these outer parameters."""
        same = loop is self.loop and outer.keys() == self.outer.keys()
        return same and all(torch.equal(value, self.outer[name]) for name, value in outer.items())


class Influence(Reweighting):
    """The influence of training examples (Koh & Liang, 2017, arXiv:1703.04730).

        f(z, lambda) = mean_i (1 + lambda_i) CE_i(z) + l2 |z|^2   on training examples
        F(z, lambda) = mean_i CE_i(z) + |lambda|^2 / 2            on validation examples

    lambda_i = -1 leaves out example i, so -dF/dlambda_i at 0 predicts what this does to the loss on
    validation examples. The one outer step of length 1 from lambda = 0, which the task suggests,
    makes lambda these predictions, by whatever method; so methods can be compared by how well they
    predict. The second term of F makes them the place where more and smaller outer steps come to
    rest: with minibatches, these average.

    Two more accounts are taken of some rows, each by an inner solve for every row. `retrained` is
    the change of F after training without the row, from the start and with the minibatches of a
    training on all rows. `pbrf` is that at the proximal Bregman response (Bae et al., 2022,
    arXiv:2209.05364), which influence estimates of networks track where retraining is another
    matter. Both leave the divisor of the mean as it is, so that l2 weighs the same with and without
    the row.

    Scores: the rank correlations (Spearman) of predictions with retraining and with responses, and
    of the two with each other, 0 while nothing is predicted; the largest gradient that the
    responses leave; then those of `Reweighting`, where the weights 1 + lambda call an example clean
    whose removal would not lower F.

    Args:
        noise: What is done to the training examples.
        rows: How many examples are left out, one at a time; all of them if there are no more.
        largest: Whether they are those of largest predicted effect, and not drawn at random.
        validation_row: F is the loss of this validation example alone; null for their mean.
        damping: Weight lam of the proximal term lam / 2 |z - z*|^2 of the responses, >= 0.
        steps: Inner steps of each solve.
        at_once: Solves that are mapped together; fewer need less memory.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the noise, the start of the classifier and the rows.
    """

    higher_is_better = (*HIGHER_IS_BETTER, "rank_correlation*")

    def __init__(
        self,
        noise: Corruption,
        rows: int,
        largest: bool,
        validation_row: int | None,
        damping: float,
        steps: int,
        at_once: int,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        for name, count in (("rows", rows), ("steps", steps), ("at_once", at_once)):
            if count < 1:
                raise ValueError(f"Influence needs {name} >= 1, got {name}={count}.")
        if not 0 <= damping < math.inf:
            raise ValueError(f"Influence needs a finite damping >= 0, got damping={damping}.")
        parts = data.splits(generator)
        super().__init__(
            *(noise, batch_size, outer_batch_size, l2, parts, data, model, device, generator)
        )
        if validation_row is not None:
            self._judge_by(validation_row)
        self.removal, self.steps = Removal(damping, at_once), steps
        count = len(self.train.y)
        drawn = torch.randperm(count, generator=generator)[:rows]
        self.rows, self.largest = drawn.to(device), largest
        self._seed = int(torch.randint(2**62, (1,), generator=generator))
        self._known: Known | None = None  # a memo, which changes no result

    def _judge_by(self, row: int) -> None:
        """Has F judge one validation example alone."""
        count = len(self.validation.y)
        if not 0 <= row < count:
            raise ValueError(
                f"Influence needs a validation_row from 0 to {count - 1}, got "
                f"validation_row={row}. Use task.validation_row=null for all of them."
            )
        only = slice(row, row + 1)
        examples = {"x": self.validation.x[only], "y": self.validation.y[only]}
        self.outer_blocks = Blocks(examples, None)
        self.blocks = self.inner_blocks.count, 1

    def init_outer(self, generator: torch.Generator) -> Params:
        return {NAME: torch.zeros_like(self.train.y, dtype=torch.get_default_dtype())}

    def batch_weights(self, inner: Params, outer: Params, losses: Tensor, batch: Batch) -> Tensor:
        return 1 + outer[NAME][batch["index"]]

    def example_weights(self, outer: Params, inner: Params) -> Tensor:
        return 1 + outer[NAME]

    def called_clean(self, weights: Tensor) -> Tensor:
        return weights >= 1

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return super().outer_loss(inner, outer, batch) + 0.5 * outer[NAME].square().sum()

    def chosen(self, outer: Params) -> Tensor:
        """The numbers of the training examples that are left out, of shape [m]."""
        if not self.largest:
            return self.rows
        return outer[NAME].abs().argsort(descending=True, stable=True)[: len(self.rows)]

    def effects(self, loop: InnerLoop, outer: Params) -> Effects:
        """What leaving out each of the chosen rows does to F.

        Args:
            loop: The inner loop of the run.
            outer: The outer parameters, which are predictions.
        """
        # The last evaluation and the files of a run ask for the same, which takes seconds.
        if self._known is None or not self._known.answers(loop, outer):
            kept = {name: value.clone() for name, value in outer.items()}
            self._known = Known(loop, kept, self._found(loop, outer))
        return self._known.effects

    def _found(self, loop: InnerLoop, outer: Params) -> Effects:
        rows, source = self.chosen(outer), self.train.x.device
        whole = {**outer, NAME: torch.zeros_like(outer[NAME])}
        every = torch.arange(len(whole[NAME]), device=source)
        without = -(every == rows[:, None]).to(whole[NAME].dtype)  # [m, n]: lambda, row by row
        random = torch.Generator(source).manual_seed(self._seed)
        data = loop.drawn(outer, self.sample(self.steps, random), random)
        both = torch.cat([whole[NAME][None], without])
        ends = self.removal.retrained(loop, Outers(whole, {NAME: both}), data)
        centre = {name: value[0] for name, value in ends.items()}
        repeated = {
            name: value.expand(self.steps, *value.shape)
            for name, value in self.inner_blocks.whole().items()
        }
        responses, unsolved = self.removal.responses(
            loop, Outers(whole, {NAME: without}), data._replace(inner=repeated), centre
        )
        responses = {n: torch.cat([ends[n][:1], value]) for n, value in responses.items()}
        judged = self.outer_blocks.whole()

        def changed(inner: Params) -> Tensor:
            losses = self.removal.changes(lambda z: self.outer_loss(z, whole, judged), inner)
            return losses[1:] - losses[0]

        return Effects(outer[NAME][rows], changed(responses), changed(ends), unsolved)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        none = outer[NAME].new_zeros(1)
        found = Effects(none, none, none, none[0])
        if bool(outer[NAME].any()):
            found = self.effects(loop, outer)
        return {
            "rank_correlation_retrained": rank_correlation(found.predicted, found.retrained),
            "rank_correlation_pbrf": rank_correlation(found.predicted, found.pbrf),
            "rank_correlation_pbrf_retrained": rank_correlation(found.pbrf, found.retrained),
            "pbrf_unsolved": found.unsolved,
            **super().evaluate(loop, outer, inner),
        }

    def write_results(
        self, directory: Path, loop: InnerLoop, outer: Params, inner: Params
    ) -> list[Path]:
        """Writes `influence.csv`, the most harmful rows first, and `weights.csv`.

        Columns: index, which is what the source calls the example; what leaving it out does to F,
        `predicted`, by `pbrf` and `retrained`; and its label. In `weights.csv` all examples have
        the weight 1 + their predicted effect.
        """
        import pandas as pd  # here: a run does not wait for it

        rows, found = self.chosen(outer).cpu().numpy(), self.effects(loop, outer)
        labels = self.class_names[self.train.y.cpu().numpy()]
        columns = {
            "index": self.names[rows],
            "predicted": found.predicted.cpu().numpy(),
            "pbrf": found.pbrf.cpu().numpy(),
            "retrained": found.retrained.cpu().numpy(),
            "label": labels[rows],
        }
        path = directory / "influence.csv"
        order = np.argsort(columns["predicted"], kind="stable")
        pd.DataFrame(columns).iloc[order].to_csv(path, index=False)
        return [path, *self.save_result(directory, outer, inner)]

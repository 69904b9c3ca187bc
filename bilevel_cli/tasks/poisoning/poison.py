"""Poisoned training examples: how much harm a share of them can do, and what removal helps."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bilevel_cli.core import trees
from bilevel_cli.core.blocks import in_chunks, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.base import Examples, Labelled
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.poisoning.attacks import Attack, Box

LABELS = ("flipped", "kept")


class Poison(TwoSums):
    """Poisoned inputs lambda, added to the training set, that make a trained classifier z worse.

        f(z, lambda) = [sum_i CE_i(z) over n clean and m poisoned examples] / (n + m) + l2 |z|^2
        F(z)         = - mean_i CE_i(z)    on clean held-out examples

    Its purpose is to evaluate robustness: how many points of accuracy can a share m / n of
    malicious examples cost, and how much of that does a simple defence bring back? With `method=cg`
    this is total gradient descent ascent (Lu, Kamath and Yu, 2022, arXiv:2204.09092), whose leader
    follows the hypergradient.

    What counts is a fresh classifier, trained on clean and poisoned examples: `retrain=N` scores
    one. Step 0 scores poisons before they are learned: with `labels=flipped` those are label flips.

    Scores, in points of the attacker: `drop`, the test accuracy of a classifier that was trained
    without poisons minus that of z; the test accuracy of z; of a classifier trained without the m
    examples, clean or poisoned, of largest loss under z, a defence; and `caught`, the share of
    poisons among these. Both other classifiers are trained by the run's solver from the task's
    start, for `follower_steps`, at each evaluation.

    Minibatches are blocks (`bilevel_cli.core.blocks`) of clean examples; each inner step sees all
    poisons.

    Args:
        attack: Makes the poisoned inputs, given examples, labels and box.
        share: m / n, > 0.
        labels: "flipped": poisons bear another label than the example that they are made of, drawn
            evenly; "kept": its own.
        clip: The least and the largest value of an entry of an input; null for the range that each
            entry has in the training examples.
        follower_steps: Inner steps of the classifiers that evaluations train, >= 1.
        batch_size: Clean training examples of an inner step; null for all of them.
        outer_batch_size: Held-out examples of an outer step; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the examples to poison, their labels and the start of z.
    """

    needs = Examples
    # The attacker's view: a report then calls the most harmful attack the best.
    higher_is_better = ("*drop",)

    def __init__(
        self,
        attack: Callable[..., Attack],
        share: float,
        labels: str,
        clip: Sequence[float] | None,
        follower_steps: int,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        _check_settings(share, labels, follower_steps, l2)
        train, validation, test = data.splits(generator)
        _check_examples(train, test)
        self.train, self.test = train.to(device), test.to(device)
        held_out = validation.to(device)
        count = max(1, round(share * len(train.y)))
        rows = torch.randint(len(train.y), (count,), generator=generator)
        shift = torch.randint(1, data.num_classes, (count,), generator=generator)
        y = train.y[rows]
        self.y = ((y + shift) % data.num_classes if labels == "flipped" else y).to(device)
        self.origin = train.index[rows]
        self.attack = attack(
            x=self.train.x[rows.to(device)], y=self.y, box=_box(self.train.x, clip)
        )
        clean = {"x": self.train.x, "y": self.train.y}
        numbers = torch.arange(len(train.y), device=device)
        judges = {"x": held_out.x, "y": held_out.y}
        self.cut({**clean, "index": numbers}, judges, batch_size, outer_batch_size)
        self.follower_steps, self.l2 = follower_steps, l2
        shape = tuple(train.x.shape[1:])
        self.model = build(model, shape, data.num_classes, device, generator, self.train.x)
        self._start = self.model.init(generator)
        self.eval_seed = int(torch.randint(2**62, (1,), generator=generator))
        self.statement = (
            f"Examples: {len(train.y)} clean and {count} poisoned for training, "
            f"{len(validation.y)} for the attacker, {len(test.y)} for test."
        )

    def init_outer(self, generator: torch.Generator) -> Params:
        return self.attack.init(generator)

    def project_outer(self, outer: Params) -> Params:
        return self.attack.project(outer)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        clean = self._losses(inner, batch["x"], batch["y"])
        poisoned = self._losses(inner, self.attack.inputs(outer), self.y)
        count, size = len(self.train.y), len(self.train.y) + len(self.y)
        if "kept" in batch:  # of an evaluation, which leaves some examples out
            loss = count * mean(batch["kept"] * clean, batch)
            loss = loss + (batch["kept_poisons"] * poisoned).sum()
            loss = loss / (count * mean(batch["kept"], batch) + batch["kept_poisons"].sum())
        else:
            loss = (count * mean(clean, batch) + poisoned.sum()) / size
        return loss + self.l2 * trees.dot(inner, inner) if self.l2 else loss

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return -mean(self._losses(inner, batch["x"], batch["y"]), batch)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        clean, poisons = len(self.train.y), len(self.y)
        losses = torch.cat([self._all_losses(inner), self._poisons_losses(inner, outer)])
        rank = losses.argsort(descending=True, stable=True).argsort(stable=True)
        kept = (rank >= poisons).to(losses.dtype)
        without = torch.cat([kept.new_ones(clean), kept.new_zeros(poisons)])
        accuracy = self._accuracy(inner)
        return {
            "drop": self._accuracy(self._follower(loop, outer, without)) - accuracy,
            "test_accuracy": accuracy,
            "defended_accuracy": self._accuracy(self._follower(loop, outer, kept)),
            "caught": 1 - kept[clean:].mean(),
        }

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `poisons.npz`, and `outer.pt`.

        Entries: x, the poisoned inputs as classifiers see them; y, their labels; index, the number
        that the example of which each was made has in its source.
        """
        path = directory / "poisons.npz"
        x, y, index = (v.cpu().numpy() for v in (self.attack.inputs(outer), self.y, self.origin))
        with path.open("wb") as file:
            np.savez(file, x=x, y=y, index=index)
        return [path, *super().save_result(directory, outer, inner)]

    def _losses(self, inner: Params, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.model.apply(inner, x), y, reduction="none")

    def _all_losses(self, inner: Params) -> Tensor:
        """Of the clean training examples, of shape [n]."""
        return in_chunks(partial(self._losses, inner), self.train.x, self.train.y)

    def _poisons_losses(self, inner: Params, outer: Params) -> Tensor:
        return self._losses(inner, self.attack.inputs(outer), self.y)

    def _accuracy(self, inner: Params) -> Tensor:
        """On the test examples, 0-dim."""
        found = in_chunks(lambda x: self.model.apply(inner, x).argmax(1), self.test.x)
        return (found == self.test.y).to(torch.get_default_dtype()).mean()

    def _follower(self, loop: InnerLoop, outer: Params, kept: Tensor) -> Params:
        """A classifier trained on the examples that are kept.

        Args:
            loop: The inner loop of the run.
            outer: The outer parameters.
            kept: 1 or 0 for each clean training example, and then for each poison; [n + m].
        """
        clean, poisons = kept.tensor_split((len(self.train.y),))
        generator = torch.Generator(kept.device).manual_seed(self.eval_seed)
        data = loop.drawn(outer, self.sample(self.follower_steps, generator), generator)
        rows = {
            "kept": clean[data.inner["index"]],
            "kept_poisons": poisons.expand(self.follower_steps, -1),
        }
        data = data._replace(inner={**data.inner, **rows})
        return loop.run(loop.fresh(outer, data), outer, data)["inner"]


def _box(x: Tensor, clip: Sequence[float] | None) -> Box:
    if clip is None:
        return Box(x.amin(0), x.amax(0))
    if len(clip) != 2 or not -math.inf < clip[0] < clip[1] < math.inf:
        raise ValueError(
            f"Poison needs clip=[low,high] with low < high, or null, got clip={[*clip]}. "
            "Set task.clip."
        )
    return Box(*(x.new_tensor(float(bound)) for bound in clip))


def _check_settings(share: float, labels: str, follower_steps: int, l2: float) -> None:
    if not 0 < share < math.inf:
        raise ValueError(f"Poison needs a share > 0, got share={share}. Set task.share, e.g. 0.03.")
    if labels not in LABELS:
        raise ValueError(
            f"Poison needs labels={' or labels='.join(LABELS)}, got labels={labels}. "
            "Set task.labels."
        )
    if follower_steps < 1:
        raise ValueError(f"Poison needs follower_steps >= 1, got follower_steps={follower_steps}.")
    if not 0 <= l2 < math.inf:
        raise ValueError(f"Poison needs a finite l2 >= 0, got l2={l2}. Set task.l2.")


def _check_examples(train: Labelled, test: Labelled) -> None:
    if not train.x.is_floating_point():
        raise ValueError(
            "Poison learns inputs, got whole numbers, which have no derivative. Use data of "
            "floating numbers."
        )
    if not len(test.y):
        raise ValueError("Poison needs test examples, got none. Set data.test.")

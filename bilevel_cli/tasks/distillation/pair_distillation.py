"""Distillation of pairs: a few learned ones teach two encoders what belongs together."""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws, trees
from bilevel_cli.core.blocks import check_batch_size
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.random import RETRAINING, SELECTION
from bilevel_cli.core.random import generator as stream
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Labelled
from bilevel_cli.data.two_views import TwoViews
from bilevel_cli.tasks.distillation.networks import Networks
from bilevel_cli.tasks.distillation.objectives.base import Objective
from bilevel_cli.tasks.distillation.real import moments
from bilevel_cli.tasks.distillation.retraining import Retraining
from bilevel_cli.tasks.distillation.selection import BASELINES, Selection
from bilevel_cli.tasks.distillation.storage import save_arrays, save_grid
from bilevel_cli.tasks.distillation.two_encoders import (
    build_encoders,
    contrastive_loss,
    joined,
    recall_at_1,
)

IN_A_ROW = 5  # pairs, in the picture of a distilled set


class PairDistillation(Task):
    """Learns `pairs` pairs of two views (Wu et al., 2024, arXiv:2308.07545).

        f(z, lambda) = InfoNCE of the encoders z on learned pairs
        F(z, lambda) = the objective; without one, InfoNCE of z on real pairs

    where lambda are both views of every pair, and z the parameters of an encoder for each view, in
    one dict. With trajectory matching and experts F is the distance of both encoders from where
    training on real pairs leads, over their distance at the start. Published is the sum of one
    such ratio for each encoder.

    Both views are normalised: mean 0 and variance 1 over the training pairs, channel by channel.
    What is saved is in the units of the data again.

    Scores, on test pairs: retrained_recall, how often the nearest of `gallery` candidates is the
    right one, the mean over both directions and over fresh networks that `retraining` trains on
    the learned pairs alone; retrained_std, over these networks; x_to_y_recall and y_to_x_recall,
    its two parts; joint_test_recall, that of the last inner iterate. Then those of real pairs, with
    the same starts and the same training: random_recall (other pairs for each network),
    herding_recall, k_centre_recall, and random_10_recall of ten times as many. Herding and
    k-centre compare the numbers of both views.

    Args:
        pairs: Learned pairs.
        batch_size: Learned pairs of an inner step, drawn without replacement; null for all.
        real_batch_size: Real pairs of an outer step, likewise, where there is no objective.
        dim: Length of an embedding.
        temperature: By which similarities are divided, > 0.
        learn_temperature: Whether it begins there and is trained with the encoders.
        gallery: Test pairs among which one is sought; null for all of them.
        beside: Multiples of `pairs`: so many real ones are chosen and scored too.
        objective: One that compares parameters, such as trajectory matching; null for the loss on
            real pairs.
        networks: Where inner solves begin.
        selection: The real pairs to start from; null for noise.
        retraining: How the learned pairs are judged, without augmentation.
        y_model: The encoder of the second view, as conf/model builds it.
        data: Pairs of two views; those for validation are not used.
        model: The encoder of the first view, likewise.
        device: Where the pairs live.
        generator: Draws the split and the networks.
    """

    needs = TwoViews

    def __init__(
        self,
        pairs: int,
        batch_size: int | None,
        real_batch_size: int,
        dim: int,
        temperature: float,
        learn_temperature: bool,
        gallery: int | None,
        beside: list[int],
        objective: Objective | None,
        networks: Networks,
        selection: Selection | None,
        retraining: Retraining,
        y_model: Callable[..., nn.Module],
        data: TwoViews,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"PairDistillation needs a finite temperature > 0, got temperature={temperature}."
            )
        if dim < 1:
            raise ValueError(f"PairDistillation needs dim >= 1, got dim={dim}.")
        _check_parts(objective, networks, retraining)
        train, _, test = data.splits(generator)
        _check_sizes(pairs, list(beside), gallery, len(train.y), len(test.y))
        check_batch_size("PairDistillation", "batch_size", batch_size, pairs)
        check_batch_size("PairDistillation", "real_batch_size", real_batch_size, len(train.y))
        self.pairs, self.batch_size, self.real_batch_size = pairs, batch_size, real_batch_size
        self.gallery, self.beside = gallery or len(test.y), list(beside)
        self.objective, self.networks = objective, networks
        self.selection, self.retraining = selection, retraining
        self.moments = [
            tuple(one.to(device, torch.get_default_dtype()) for one in moments(view))
            for view in (train.x, train.y)
        ]
        x, y = self._normalised(train, device)
        self.shapes = [tuple(view.shape[1:]) for view in (x, y)]
        self.train, self.test = joined(x, y), joined(*self._normalised(test, device))
        models = model, y_model
        self.model = build_encoders(models, (x, y), dim, temperature, learn_temperature, generator)
        self.bank = networks.bank(
            self.model.init, self._real_loss, {"pairs": self.train}, generator
        )
        self.eval_seed = int(torch.randint(2**62, (1,), generator=generator))
        self.statement = (
            f"Pairs: {len(self.train)} to distil into {pairs}, {len(self.test)} for test, of which "
            f"one is sought among {self.gallery}."
        )

    def init_outer(self, generator: torch.Generator) -> Params:
        if self.selection is None:
            shape = self.pairs, self.train.shape[1]
            both = draws.normal(*shape, generator=generator).to(self.train)
        else:
            both = self.train[self._chosen(self.selection, self.pairs, generator)]
        sizes = [math.prod(shape) for shape in self.shapes]
        views = zip("xy", torch.split(both, sizes, 1), self.shapes, strict=True)
        outer = {name: view.reshape(-1, *shape).contiguous() for name, view, shape in views}
        return outer | self._own()

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        device = self.train.device
        index = torch.arange(self.pairs, device=device).expand(num_steps, -1)
        if self.batch_size is not None:
            keys = draws.uniform(num_steps, self.pairs, generator=generator)
            index = keys.topk(self.batch_size).indices
        begin, become = self.networks.pick(self.bank, generator)
        if self.objective is None:
            keys = draws.uniform(len(self.train), generator=generator)
            outer = {"pairs": self.train[keys.topk(self.real_batch_size).indices]}
        else:
            outer = trees.prefixed("origin.", begin) | trees.prefixed("target.", become)
        return StepData(begin, {"index": index}, outer)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        learned = _learned(outer)[batch["index"]]
        return contrastive_loss(self.model.apply(inner, learned))

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        if self.objective is None:
            return self._real_loss(inner, batch)
        own = {name: outer[name] for name in self._own()}
        return self.objective(self.model, inner, own, {}, batch)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        recalls = self._recalls([_learned(outer)] * self.retraining.networks)
        return {
            "retrained_recall": recalls.mean(),
            "retrained_std": recalls.mean(1).std(correction=0),
            "x_to_y_recall": recalls[:, 0].mean(),
            "y_to_x_recall": recalls[:, 1].mean(),
            "joint_test_recall": self._recall(inner).mean(),
            **self._scores_of_real_pairs,
        }

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `distilled.npz`, and `distilled.png` where both views are images of one size.

        Entries: x and y, in the units of the data, so that `data=pairs` reads them; x_mean, x_std,
        y_mean and y_std, with which they are normalised before training; and all else that was
        learned, such as `log_lr`.
        """
        views, more = {}, {n: v for n, v in outer.items() if n not in ("x", "y")}
        for name, (mean, std) in zip("xy", self.moments, strict=True):
            views[name] = outer[name] * std + mean
            more |= {f"{name}_mean": mean, f"{name}_std": std}
        path, picture = directory / "distilled.npz", directory / "distilled.png"
        save_arrays(path, views | more)
        x, y = views.values()
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] not in (1, 3):
            return [path]
        save_grid(picture, torch.stack([x, y], 1).flatten(0, 1), 2 * IN_A_ROW)
        return [path, picture]

    @cached_property
    def _scores_of_real_pairs(self) -> dict[str, Tensor]:
        """Of all selections at all sizes: the same at every evaluation, and computed at the first.

        Of several times as many pairs, random ones alone.
        """
        scores, source = {}, stream(self.eval_seed, SELECTION)
        for times in self.beside:
            for name, selection in BASELINES.items() if times == 1 else [*BASELINES.items()][:1]:
                sets = [
                    self.train[self._chosen(selection, times * self.pairs, source)]
                    for _ in range(self.retraining.networks)
                ]
                column = f"{name}_recall" if times == 1 else f"{name}_{times}_recall"
                scores[column] = self._recalls(sets).mean()
        return scores

    def _normalised(self, part: Labelled, device: torch.device) -> tuple[Tensor, Tensor]:
        x, y = (
            (view.to(device, torch.get_default_dtype()) - mean) / std
            for view, (mean, std) in zip((part.x, part.y), self.moments, strict=True)
        )
        return x, y

    def _chosen(self, selection: Selection, count: int, generator: torch.Generator) -> Tensor:
        """The rows of `count` real pairs, chosen as if all were of one class."""
        one = torch.zeros(len(self.train), dtype=torch.long, device=self.train.device)
        return selection.select(self.train, one, count, generator)

    def _recalls(self, sets: list[Tensor]) -> Tensor:
        """Both recalls of a fresh network for each set of pairs, of shape [networks, 2]."""
        unlabelled = [(pairs, pairs[:, :0]) for pairs in sets]
        source = stream(self.eval_seed, RETRAINING)
        trained = self.retraining.networks_of(
            self.model, unlabelled, source, lambda outputs, _: contrastive_loss(outputs)
        )
        return torch.stack([self._recall(params) for params in trained])

    def _recall(self, params: Params) -> Tensor:
        return recall_at_1(self.retraining.outputs(self.model, params, self.test), self.gallery)

    def _real_loss(self, params: Params, batch: Batch) -> Tensor:
        return contrastive_loss(self.model.apply(params, batch["pairs"]))

    def _own(self) -> Params:
        """The outer parameters of the objective, as they begin."""
        return {} if self.objective is None else self.objective.begin(self.model)


def _learned(outer: Params) -> Tensor:
    return joined(outer["x"], outer["y"])


def _check_parts(objective: Objective | None, networks: Networks, retraining: Retraining) -> None:
    """Refuses parts that are made for images with labels."""
    if objective is not None and not objective.needs_target:
        raise ValueError(
            f"PairDistillation needs an objective that compares parameters, or none, got "
            f"{type(objective).__name__}. Use task/objective=trajectory_matching, or "
            "~task/objective for the loss on real pairs."
        )
    if objective is not None and not networks.targets:
        raise ValueError(
            f"{type(objective).__name__} needs networks that know what they should become, "
            f"got {type(networks).__name__}. Use task/networks=experts."
        )
    if retraining.augment is not None:
        raise ValueError(
            "PairDistillation needs a retraining that takes pairs as they are, got one that "
            "augments images. Use task/retraining=default."
        )


def _check_sizes(pairs: int, beside: list[int], gallery: int | None, train: int, test: int) -> None:
    """Refuses numbers of pairs that the data do not have."""
    if min([pairs, *beside]) < 1:
        raise ValueError(
            f"PairDistillation needs pairs >= 1 and beside >= 1, got pairs={pairs}, "
            f"beside={beside}."
        )
    if (most := max([1, *beside]) * pairs) > train:
        raise ValueError(
            f"PairDistillation needs at most {train} real pairs, those for training, got {most} "
            f"by pairs={pairs}, beside={beside}. Lower task.pairs, or use task.beside=[1]."
        )
    if not test or (gallery is not None and not 1 <= gallery <= test):
        raise ValueError(
            f"PairDistillation needs gallery from 1 to {test}, the test pairs, got "
            f"gallery={gallery}. Use task.gallery=null for all of them."
        )

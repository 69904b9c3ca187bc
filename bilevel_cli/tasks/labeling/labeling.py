"""Labels for examples without any: TURTLE."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.core.blocks import in_chunks, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.base import Examples
from bilevel_cli.data.representations import Representations
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.labeling.agreement import (
    cluster_accuracy,
    matched,
    one_hot,
    probe_accuracy,
)
from bilevel_cli.vocabulary import HIGHER_IS_BETTER


class Labeling(TwoSums):
    """A labeling of examples that linear classifiers learn easily in every representation.

    The examples have K representations phi_k(x), such as the features of K networks. A task encoder
    lambda labels them, and a linear head z_k learns these labels from each representation:

        tau(x)       = mean_k tau_k(x),    tau_k(x) = softmax(A_k phi_k(x) + a_k)
        f(z, lambda) = sum_k mean_x CE(z_k phi_k(x), tau(x))
        F(z, lambda) = f(z, lambda) - gamma sum_k entropy(mean_x tau_k(x))

    The rows of A_k are normalised: each is a length times a direction. The entropy keeps clusters
    from running empty. This is TURTLE (Gadetsky et al., 2024, arXiv:2406.07236), with its method
    `method=explicit`, which leaves out how the heads respond to the labels; `method=reverse` does
    not. Fresh heads at each outer step are `start=cold`, heads that go on `start=warm`.

    No label of the data is used but for scores. All examples of the data set are labelled, whatever
    its parts. Both losses see minibatches of their own where there are any, and the entropy is then
    that of a minibatch; the authors take one minibatch for all of an outer step.

    Scores: the share of examples whose cluster, matched one to one with a class, is right, where
    the labels are known; then what needs no label: `probe_accuracy`, how well a linear probe
    predicts clusters of examples that it has not seen, entropy of the mean of tau in nats, at most
    log(clusters), and how many clusters have an example.

    Args:
        clusters: How many, >= 2; null for the number of classes.
        gamma: Weight of the entropy, >= 0.
        normalize_rows: Whether features are centred, and the rows of each representation scaled to
            the same length, the square root of their number of features.
        probe_folds: Folds of the probe, >= 2.
        batch_size: Examples of a minibatch of either loss; null for all of them.
        data: Labelled examples, of one representation; or representations.
        device: Where the examples live.
        generator: Draws the order of the examples.
    """

    needs = (Examples, Representations)
    higher_is_better = (*HIGHER_IS_BETTER, "*entropy", "*clusters")

    def __init__(
        self,
        clusters: int | None,
        gamma: float,
        normalize_rows: bool,
        probe_folds: int,
        batch_size: int | None,
        data: Examples | Representations,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not 0 <= gamma < math.inf:
            raise ValueError(f"Labeling needs a finite gamma >= 0, got gamma={gamma}.")
        spaces, labels, self.names = _read(data, generator)
        count, self.class_names = len(self.names), np.array(data.class_names)
        self.clusters = _clusters(clusters, len(self.class_names), count)
        if not 2 <= probe_folds <= count:
            raise ValueError(
                f"Labeling needs probe_folds from 2 to {count}, all its examples, got "
                f"probe_folds={probe_folds}. Use task.probe_folds=5."
            )
        self.gamma, self.probe_folds = gamma, probe_folds
        spaces = [_normalised(x) for x in spaces] if normalize_rows else spaces
        self.spaces = [x.to(device, torch.get_default_dtype()) for x in spaces]
        self.labels = None if labels is None else labels.to(device)
        named = {f"space.{k}": x for k, x in enumerate(self.spaces)}
        self.cut(named, named, batch_size, batch_size)
        sizes = " and ".join(str(x.shape[1]) for x in self.spaces)
        known = "no labels" if labels is None else "labels for scores alone"
        self.statement = (
            f"Examples: {count} of {sizes} features, {self.clusters} clusters, {known}."
        )

    def init_outer(self, generator: torch.Generator) -> Params:
        outer: Params = {}
        for k, x in enumerate(self.spaces):
            drawn = _affine(self.clusters, x.shape[1], generator).to(x)
            outer[f"encoder.{k}.direction"] = drawn[:, :-1].contiguous()
            outer[f"encoder.{k}.length"] = drawn[:, :-1].norm(dim=1)
            outer[f"encoder.{k}.bias"] = drawn[:, -1].contiguous()
        return outer

    def start(self, generator: torch.Generator) -> Params:
        heads: Params = {}
        for k, x in enumerate(self.spaces):
            drawn = _affine(self.clusters, x.shape[1], generator)
            heads[f"head.{k}.weight"], heads[f"head.{k}.bias"] = drawn[:, :-1], drawn[:, -1]
        return heads

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        spaces = self._spaces(batch)
        return self._fit(inner, spaces, torch.stack(self._encoded(outer, spaces)).mean(0), batch)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        spaces = self._spaces(batch)
        encoded = self._encoded(outer, spaces)
        fit = self._fit(inner, spaces, torch.stack(encoded).mean(0), batch)
        entropies = [entropy(_average(one, batch)) for one in encoded]
        return fit - self.gamma * torch.stack(entropies).sum()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        tau = self._labelled(outer)
        found, scores = tau.argmax(1), {}
        if self.labels is not None:
            scores["cluster_accuracy"] = cluster_accuracy(found, self.labels, self._sizes)
        scores["probe_accuracy"] = probe_accuracy(
            self.spaces, found, self.clusters, self.probe_folds
        )
        scores["entropy"] = entropy(tau.mean(0))
        used = one_hot(found, self.clusters).amax(0)
        scores["clusters"] = used.sum()
        return scores

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `labels.csv`, and the task encoder, `outer.pt`.

        Columns: index, which is what the source calls the example, cluster, and confidence, the
        largest entry of tau. Where the labels are known: label, and the class that stands for the
        cluster, matched.
        """
        import pandas as pd  # here: a run does not wait for it

        confidence, found = self._labelled(outer).max(1)
        columns = {"index": self.names, "cluster": found.cpu().numpy()}
        columns["confidence"] = confidence.cpu().numpy()
        if self.labels is not None:
            classes = matched(found, self.labels, self._sizes)[found].cpu().numpy()
            columns["label"] = self.class_names[self.labels.cpu().numpy()]
            columns["matched"] = np.where(classes < 0, "", self.class_names[classes])
        path = directory / "labels.csv"
        pd.DataFrame(columns).sort_values("index").to_csv(path, index=False)
        return [path, *super().save_result(directory, outer, inner)]

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.clusters, len(self.class_names)

    def _spaces(self, batch: Batch) -> list[Tensor]:
        return [batch[f"space.{k}"] for k in range(len(self.spaces))]

    def _encoded(self, outer: Params, spaces: Sequence[Tensor]) -> list[Tensor]:
        """tau_k, each of shape [n, clusters]."""
        found = []
        for k, x in enumerate(spaces):
            part = {n: outer[f"encoder.{k}.{n}"] for n in ("direction", "length", "bias")}
            direction = part["direction"] / part["direction"].norm(dim=1, keepdim=True)
            logits = x @ (part["length"][:, None] * direction).T + part["bias"]
            found.append(logits.softmax(1))
        return found

    def _fit(self, inner: Params, spaces: Sequence[Tensor], tau: Tensor, batch: Batch) -> Tensor:
        losses = [
            cross_entropy(
                x @ inner[f"head.{k}.weight"].T + inner[f"head.{k}.bias"], tau, reduction="none"
            )
            for k, x in enumerate(spaces)
        ]
        return mean(torch.stack(losses).sum(0), batch)

    def _labelled(self, outer: Params) -> Tensor:
        """tau of all examples, of shape [n, clusters]."""

        def mean_label(*spaces: Tensor) -> Tensor:
            return torch.stack(self._encoded(outer, spaces)).mean(0)

        return in_chunks(mean_label, *self.spaces)


def entropy(shares: Tensor) -> Tensor:
    """-sum p log p in nats, 0-dim; `shares` p have the shape [clusters]."""
    return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum()


def _average(rows: Tensor, batch: Batch) -> Tensor:
    """The mean of rows [n, clusters], weighted where the block has weights; its sum is 1."""
    if "weight" not in batch:
        return rows.mean(0)
    return (batch["weight"][:, None] * rows).sum(0) / batch["weight"].sum()


def _affine(outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    """[outputs, inputs + 1]: weights, and biases in the last column, as torch.nn.Linear draws."""
    bound = 1 / math.sqrt(inputs)
    return bound * (2 * draws.uniform(outputs, inputs + 1, generator=generator) - 1)


def _read(
    data: Examples | Representations, generator: torch.Generator
) -> tuple[list[Tensor], Tensor | None, NDArray[Any]]:
    """The examples in each representation, in random order; their labels; what they are called."""
    if isinstance(data, Representations):
        spaces, labels = data.spaces(), data.labels
        order = torch.randperm(len(spaces[0]), generator=generator)
        return [x[order] for x in spaces], None if labels is None else labels[order], order.numpy()
    parts = data.splits(generator)
    x, y, index = (torch.cat([getattr(p, n) for p in parts]) for n in ("x", "y", "index"))
    if not x.is_floating_point():
        raise ValueError(
            "Labeling needs features, got whole numbers, which are taken for tokens. Use "
            "data=representations with the features of a model."
        )
    return [x.flatten(1)], y, data.names_of(index)


def _clusters(wanted: int | None, classes: int, count: int) -> int:
    found = wanted or classes
    if not found:
        raise ValueError(
            "Labeling needs a number of clusters where the labels are unknown, got clusters=null. "
            "Set task.clusters."
        )
    if not 2 <= found <= count:
        raise ValueError(
            f"Labeling needs clusters from 2 to {count}, all its examples, got clusters={found}. "
            "Set task.clusters."
        )
    return found


def _normalised(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    length = x.norm(dim=1, keepdim=True)
    return x * math.sqrt(x.shape[1]) / torch.where(length > 0, length, 1)

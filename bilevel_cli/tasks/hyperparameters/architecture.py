"""Architecture search: which operation belongs on each edge of a small network."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws
from bilevel_cli.core.blocks import in_chunks, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.base import Examples
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.hyperparameters.cell import ARCHITECTURE


class Architecture(TwoSums):
    """Differentiable architecture search (DARTS, Liu et al., 2019, arXiv:1806.09055).

        f(z, lambda) = mean_i CE(network(x_i; z, lambda), y_i)    on training examples
        F(z, lambda) = the same                                   on validation examples

    The outer parameters are those that weigh the operations on the edges of a cell, and z are all
    others. `inner_steps=1 start=warm` is the search of the paper: of second order with
    method=darts, of first order with method=direct, which takes z for a constant. It is known that
    a long search fills the cell with skip connections (Zela et al., 2020, arXiv:1909.09656).

    The decided architecture has one operation on each edge, the one of the largest weight besides
    `zero`, and drops all edges but the `keep` strongest into each node. Where the run re-trains
    (`retrain=N`), a fresh network of the decided architecture is trained. A random architecture to
    compare with is that of `method=none task.spread=1`.

    Scores, of the last inner iterate: accuracy of the mixture on test examples, if there are some;
    accuracy and loss on validation examples; accuracy of the decided architecture with the weights
    of the mixture (decided_accuracy), on the first of these. Then of the architecture: the share of
    each operation among the edges that are kept (share_*), the mean weight of each operation over
    all edges (weight_*), and the mean entropy of an edge's weights, in nats.

    Minibatches are blocks (`bilevel_cli.core.blocks`). The start of z is the same at every outer
    step.

    Args:
        cell: The network: a module with a parameter `architecture` [edges, operations], and with
            `edges` and `operations`, as `Cell` has them.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        spread: Standard deviation of the outer parameters before the first step, >= 0.
        keep: Edges into each node that the decided architecture keeps, >= 1.
        data: Labelled examples.
        device: Where the examples live.
        generator: Draws the split and the start of the network.
    """

    needs = Examples

    def __init__(
        self,
        cell: Callable[..., nn.Module],
        batch_size: int | None,
        outer_batch_size: int | None,
        spread: float,
        keep: int,
        data: Examples,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if not (0 <= spread < math.inf and keep >= 1):
            raise ValueError(
                "Architecture needs a finite spread >= 0 and keep >= 1, got "
                f"spread={spread}, keep={keep}. Set task.spread and task.keep."
            )
        parts = data.splits(generator)._asdict()
        sizes = {name: len(part.y) for name, part in parts.items()}
        placed = {name: part.to(device) for name, part in parts.items()}
        self.examples = {name: {"x": part.x, "y": part.y} for name, part in placed.items()}
        both = self.examples["train"], self.examples["validation"]
        self.cut(*both, batch_size, outer_batch_size)
        self.statement = f"Examples: {', '.join(f'{size} for {n}' for n, size in sizes.items())}."
        x = self.examples["train"]["x"]
        self.model = build(cell, tuple(x.shape[1:]), data.num_classes, device, generator, x)
        self._start = self.model.init(generator)
        module: Any = self.model.module
        if ARCHITECTURE not in self._start:
            raise ValueError(
                f"Architecture needs a network with a parameter `{ARCHITECTURE}` that weighs its "
                f"operations, got {type(module).__name__} without one. Leave task.cell._target_."
            )
        self._shape = self._start.pop(ARCHITECTURE).shape
        self.operations: tuple[str, ...] = module.operations
        self.edges: list[tuple[int, int]] = module.edges
        self.spread, self.keep, self.device = spread, keep, device

    def init_outer(self, generator: torch.Generator) -> Params:
        drawn = draws.normal(*self._shape, generator=generator)
        return {ARCHITECTURE: (self.spread * drawn).to(self.device)}

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        logits = self._logits(inner, outer, batch["x"])
        return mean(cross_entropy(logits, batch["y"], reduction="none"), batch)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.inner_loss(inner, outer, batch)

    def deployed(self, outer: Params) -> Params:
        chosen = self.chosen(outer[ARCHITECTURE])
        # Its softmax is exactly 1 for what is chosen.
        return {**outer, ARCHITECTURE: chosen.log()}

    def chosen(self, architecture: Tensor) -> Tensor:
        """The decided architecture: 1 for the operation of each edge, 0 elsewhere.

        Args:
            architecture: Of shape [edges, operations], as are the result.
        """
        weights = architecture.softmax(1)
        strength, operation = weights[:, 1:].max(1)
        targets = torch.tensor([target for _, target in self.edges], device=weights.device)
        # Of an edge: how many into the same node are stronger, or as strong and earlier.
        earlier = torch.ones(len(targets), len(targets), device=weights.device).tril(-1).bool()
        rival = strength[:, None] < strength
        rival = rival | ((strength[:, None] == strength) & earlier)
        stronger = (rival & (targets[:, None] == targets)).sum(1)
        column = torch.where(stronger < self.keep, operation + 1, 0)
        return torch.zeros_like(weights).scatter(1, column[:, None], 1.0)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        decided = self.deployed(outer)
        scores, parts = {}, [part for part in ("test", "validation") if len(self._labels(part))]
        for part in parts:
            logits, y = self._outputs(inner, outer, part), self._labels(part)
            scores[f"{part}_accuracy"] = (logits.argmax(1) == y).to(logits.dtype).mean()
        scores["validation_loss"] = cross_entropy(logits, y)
        right = self._outputs(inner, decided, parts[0]).argmax(1) == self._labels(parts[0])
        scores["decided_accuracy"] = right.to(logits.dtype).mean()
        weights, chosen = (some[ARCHITECTURE].softmax(1) for some in (outer, decided))
        shares = chosen[:, 1:].sum(0) / chosen[:, 1:].sum()
        for name, share in zip(self.operations[1:], shares, strict=True):
            scores[f"share_{name}"] = share
        for name, weight in zip(self.operations, weights.mean(0), strict=True):
            scores[f"weight_{name}"] = weight
        return scores | {"entropy": torch.special.entr(weights).sum(1).mean()}

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `outer.pt`, and `architecture.csv`: a row for each operation on each edge.

        Its columns: the nodes `source` and `target`, the `operation`, its `weight` in the mixture,
        and `chosen`, 1 where it belongs to the decided architecture.
        """
        weights = outer[ARCHITECTURE].softmax(1).tolist()
        chosen = self.chosen(outer[ARCHITECTURE]).long().tolist()
        path = directory / "architecture.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["source", "target", "operation", "weight", "chosen"])
            for number, edge in enumerate(self.edges):
                columns = zip(self.operations, weights[number], chosen[number], strict=True)
                table.writerows([*edge, *column] for column in columns)
        return [*super().save_result(directory, outer, inner), path]

    def _logits(self, inner: Params, outer: Params, x: Tensor) -> Tensor:
        return self.model.apply({**inner, ARCHITECTURE: outer[ARCHITECTURE]}, x)

    def _outputs(self, inner: Params, outer: Params, part: str) -> Tensor:
        return in_chunks(partial(self._logits, inner, outer), self.examples[part]["x"])

    def _labels(self, part: str) -> Tensor:
        return self.examples[part]["y"]

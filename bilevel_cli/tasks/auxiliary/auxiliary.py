"""Training on several targets at once, of which only the first one counts."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core import autodiff, draws
from bilevel_cli.core.blocks import in_chunks, mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.simplex import onto_simplex
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums
from bilevel_cli.data.several_targets import SeveralTargets
from bilevel_cli.nn.building import build
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.auxiliary.combination import Combination

NAME = "preference"


class Auxiliary(TwoSums):
    """How much each auxiliary target should count in training, so that the main one is learned.

        f(z, p) = sum_k p_k l_k(z)   on training examples
        F(z)    = l_1(z)             on validation examples

    where l_k is the mean loss of target k: the squared error of a real number, the cross-entropy of
    a class. The preferences p are the outer parameters, on the simplex, and begin equal. The first
    target is the main one; the others serve it or they lose their say. With `combination=nash` the
    inner steps follow another direction than the gradient of f (`NashBargain`; Shamsian et al.,
    2023, arXiv:2301.13501).

    A model has an output for each target (for each class), or one that all targets of one quantity
    share.

    Scores: of the last inner iterate the loss of the main target on the test examples, if there are
    some, and on validation examples, and for classes the accuracy; for planted targets `distance`,
    the Euclidean distance of the weights of a linear model to the true ones; and each preference.

    Minibatches are blocks (`bilevel_cli.core.blocks`): cut once, each drawn once in an epoch.

    Args:
        combination: How the inner steps combine the losses.
        one_output: Whether one output predicts all targets; null where the data say.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        data: Examples with several targets.
        model: The network, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split and the start of the network.
    """

    needs = SeveralTargets

    def __init__(
        self,
        combination: Combination,
        one_output: bool | None,
        batch_size: int | None,
        outer_batch_size: int | None,
        data: SeveralTargets,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        parts = data.splits(generator)
        self.names, self.class_counts = data.target_names, data.class_counts
        self.one_output = data.one_output if one_output is None else one_output
        _check_targets(self.names, self.class_counts, self.one_output, combination)
        placed = {name: part.to(device) for name, part in parts._asdict().items()}
        self.examples = {name: {"x": part.x, "y": part.y} for name, part in placed.items()}
        both = self.examples["train"], self.examples["validation"]
        self.cut(*both, batch_size, outer_batch_size)
        self.widths = [count or 1 for count in self.class_counts]
        outputs = 1 if self.one_output else sum(self.widths)
        shape = tuple(parts.train.x.shape[1:])
        self.model = build(model, shape, outputs, device, generator, self.examples["train"]["x"])
        self._start = self.model.init(generator)
        self.combination = combination
        if not combination.descends:
            self.inner_field = self._field
        self.truth = None if data.truth is None else data.truth.to(self.examples["train"]["x"])
        self._check_sharing()
        sizes = ", ".join(f"{len(part.y)} for {name}" for name, part in parts._asdict().items())
        auxiliary = ", ".join(self.names[1:])
        self.statement = f"Main target: {self.names[0]}. Auxiliary: {auxiliary}. Examples: {sizes}."

    def init_outer(self, generator: torch.Generator) -> Params:
        some = next(iter(self._start.values()))
        return {NAME: torch.full((len(self.names),), 1 / len(self.names)).to(some)}

    def project_outer(self, outer: Params) -> Params:
        least = self.combination.least
        left = 1 - least * len(self.names)  # to share out besides
        nearest = onto_simplex((outer[NAME] - least)[None] / left)[0]
        return outer | {NAME: least + left * nearest}

    def losses(self, inner: Params, batch: Batch) -> Tensor:
        """l_k(z) on a minibatch, of shape [K]."""
        outputs = self._outputs(inner, batch["x"])
        return torch.stack([self._loss(outputs[k], batch, k) for k in range(len(self.names))])

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        losses = partial(self.losses, batch=batch)
        return self.combination.weighted(losses, inner, outer[NAME])

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._loss(self._outputs(inner, batch["x"])[0], batch, 0)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores = {}
        for part in ("test", "validation"):
            x, y = self.examples[part]["x"], self.examples[part]["y"]
            if len(y):
                output = in_chunks(lambda some: self._outputs(inner, some)[0], x)
                scores[f"{part}_loss"] = self._loss(output, {"y": y}, 0)
                if self.class_counts[0] is not None:
                    right = output.argmax(1) == y[:, 0]
                    scores[f"{part}_accuracy"] = right.to(output.dtype).mean()
        if self.truth is not None:
            scores["distance"] = (self._slopes(inner) - self.truth).norm()
        return scores | {
            f"{NAME}.{column}": value
            for column, value in zip(_columns(self.names), outer[NAME], strict=True)
        }

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `outer.pt`, and `preferences.csv`: target, its preference, the largest first."""
        import pandas as pd  # here: a run does not wait for it

        path = directory / "preferences.csv"
        table = pd.DataFrame({"target": self.names, NAME: outer[NAME].cpu().numpy()})
        table.sort_values(NAME, ascending=False, kind="stable").to_csv(path, index=False)
        return [*super().save_result(directory, outer, inner), path]

    def _field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        losses = partial(self.losses, batch=batch)
        return self.combination.direction(losses, inner, outer[NAME])

    def _outputs(self, inner: Params, x: Tensor) -> list[Tensor]:
        """The outputs for each target, K tensors of shape [n, classes] or [n, 1]."""
        outputs = self.model.apply(inner, x)
        if self.one_output:
            return [outputs] * len(self.names)
        return list(torch.split(outputs, self.widths, 1))

    def _loss(self, output: Tensor, batch: Batch, k: int) -> Tensor:
        y = batch["y"][:, k]
        if self.class_counts[k] is None:
            return mean((output[:, 0] - y).square(), batch)
        return mean(cross_entropy(output, y.long(), reduction="none"), batch)

    def _slopes(self, inner: Params) -> Tensor:
        """The weights of the main output, of shape [features], where the model is linear."""
        x = self.examples["train"]["x"]
        points = torch.cat([torch.zeros_like(x[:1]), torch.eye(x.shape[1]).to(x)])
        values = self._outputs(inner, points)[0][:, 0]
        return values[1:] - values[0]

    def _check_sharing(self) -> None:
        """Raises ValueError where no auxiliary target moves what the main target depends on."""
        source = torch.Generator().manual_seed(0)
        somewhere = {
            name: value + draws.normal(*value.shape, generator=source).to(value)
            for name, value in self._start.items()
        }
        few = {name: value[:8] for name, value in self.examples["train"].items()}

        def slope(k: int) -> Params:
            return autodiff.grad(lambda z: self.losses(z, few)[k])(somewhere)

        main = slope(0)
        others = [slope(k) for k in range(1, len(self.names))]
        if not any(bool((main[n] * other[n]).any()) for other in others for n in main):
            raise ValueError(
                "Auxiliary needs a model whose outputs share parameters, got "
                f"{type(self.model.module).__name__}, in which {self.names[0]!r} has its own: no "
                "other target could help it. Use model=mlp; or task.one_output=true for targets of "
                "one quantity."
            )


def _check_targets(
    names: list[str], classes: list[int | None], one_output: bool, combination: Combination
) -> None:
    if one_output and any(count is not None for count in classes):
        raise ValueError(
            "Auxiliary needs targets that are real numbers where one output predicts them all, got "
            "classes. Use task.one_output=false."
        )
    if combination.least * len(names) >= 1:
        raise ValueError(
            f"Auxiliary needs least * {len(names)} targets < 1, got least={combination.least}. "
            "Lower task.combination.least."
        )


def _columns(names: list[str]) -> list[str]:
    """Names of columns for targets, without what a table has a meaning for."""
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in names]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{number}_{name}" for number, name in enumerate(plain)]

"""A deep equilibrium model: a classifier whose hidden states are the fixed point of a layer."""

import math

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.core.blocks import check_batch_size, epochs
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.random import INNER
from bilevel_cli.core.task import FieldTask
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples, Labelled
from bilevel_cli.nn.losses import cross_entropy

WEIGHT = "recurrent.weight"
SETTLED = 1e-6  # how far a step may still move the states of an evaluation
MOST_STEPS = 1000


class Equilibrium(FieldTask):
    """The hidden states z_i of the examples x_i are the fixed point of one layer,

        z_i = tanh(W z_i + U x_i + b),    F = mean_i CE(V z_i + c, y_i),

    and the weights W, U, b, V, c are the outer parameters: a deep equilibrium model (Bai, Kolter &
    Koltun, 2019, arXiv:1909.01377), as Grazzi et al. (2020, arXiv:2006.16218) pose it as a bilevel
    problem. The inner field is z - tanh(W z + U x + b). Its Jacobian I - diag(1 - z^2) W is not
    symmetric. One inner step of `solver=gd` with step size 1 applies the layer once.

    |W| <= bound in the Frobenius norm, to which `project_outer` scales W. So the layer contracts by
    `bound` at least, and has one fixed point.

    Scores: accuracy and loss on test and training examples, at states that a step moves by less
    than 1e-6; the norm of W.

    Args:
        hidden: Hidden states of an example.
        bound: Of the norm of W, in (0, 1).
        batch_size: Training examples of an outer step; null for all of them, whose states a warm
            start keeps. Each minibatch has states of its own: take start=cold.
        data: Labelled examples.
        device: Where they live.
        generator: Draws the split.
    """

    needs = Examples

    def __init__(
        self,
        hidden: int,
        bound: float,
        batch_size: int | None,
        data: Examples,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        if hidden < 1:
            raise ValueError(f"Equilibrium needs hidden >= 1, got hidden={hidden}.")
        if not 0 < bound < 1:
            raise ValueError(
                f"Equilibrium needs a bound in (0, 1), got bound={bound}: at 1 the layer need not "
                "contract. Set task.bound, e.g. 0.9."
            )
        parts = data.splits(generator)
        if not parts.train.x.is_floating_point():
            raise ValueError(
                "Equilibrium needs examples that are numbers, got tokens. Use task=hpo with a "
                "model that embeds them."
            )
        check_batch_size("Equilibrium", "batch_size", batch_size, len(parts.train.y))
        self.train, self.test = (_flat(part.to(device)) for part in (parts.train, parts.test))
        self.statement = (
            f"Examples: {len(parts.train.y)} for training, {len(parts.test.y)} for test."
        )
        self.batch_size, self.classes = batch_size, data.num_classes
        self.hidden, self.bound, self.device = hidden, bound, device

    def init_outer(self, generator: torch.Generator) -> Params:
        inputs = self.train["x"].shape[1]

        def normal(rows: int, columns: int) -> Tensor:
            return draws.normal(rows, columns, generator=generator) / math.sqrt(columns)

        recurrent = normal(self.hidden, self.hidden)
        outer = {
            WEIGHT: 0.5 * self.bound * recurrent / recurrent.norm(),
            "input.weight": normal(self.hidden, inputs),
            "input.bias": torch.zeros(self.hidden),
            "head.weight": normal(self.classes, self.hidden),
            "head.bias": torch.zeros(self.classes),
        }
        return {name: value.to(self.device) for name, value in outer.items()}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        batch = self.train
        if self.batch_size is not None:
            rows = epochs(INNER, len(batch["y"]), self.batch_size, generator)
            batch = {name: value[rows] for name, value in batch.items()}
        x = batch["x"]
        states = {"z": x.new_zeros(len(x), self.hidden)}
        return StepData(states, {"x": x.expand(num_steps, *x.shape)}, batch)

    def inner_field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        return {"z": inner["z"] - _layer(inner["z"], outer, batch["x"])}

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return cross_entropy(_logits(inner["z"], outer), batch["y"])

    def project_outer(self, outer: Params) -> Params:
        norm = outer[WEIGHT].norm()
        return {**outer, WEIGHT: outer[WEIGHT] * (self.bound / norm).clamp(max=1.0)}

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores = {}
        for name, part in (("test", self.test), ("train", self.train)):
            if len(part["y"]):
                logits = _logits(self.settled(outer, part["x"]), outer)
                scores[f"{name}_accuracy"] = (logits.argmax(1) == part["y"]).to(logits).mean()
                scores[f"{name}_loss"] = cross_entropy(logits, part["y"])
        return {**scores, "recurrent_norm": outer[WEIGHT].norm()}

    def settled(self, outer: Params, x: Tensor) -> Tensor:
        """The states [n, hidden] of examples [n, inputs], to `SETTLED`. Waits for the device."""
        z = x.new_zeros(len(x), self.hidden)
        for _ in range(MOST_STEPS):
            before, z = z, _layer(z, outer, x)
            if (z - before).abs().max() < SETTLED:
                break
        return z


def _layer(z: Tensor, outer: Params, x: Tensor) -> Tensor:
    pushed = x @ outer["input.weight"].T + outer["input.bias"]
    return torch.tanh(z @ outer[WEIGHT].T + pushed)


def _logits(z: Tensor, outer: Params) -> Tensor:
    return z @ outer["head.weight"].T + outer["head.bias"]


def _flat(part: Labelled) -> Batch:
    return {"x": part.x.flatten(1), "y": part.y}

"""Tasks as users write them."""

import torch
from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.examples.quadratic import Quadratic
from bilevel_cli.tasks.hyperparameters import Hyperparameters


class ModelInADict(Hyperparameters):
    """Keeps its models in lists, as one that has several does."""

    @property
    def model(self) -> Functional:
        return self.models["own"][0]

    @model.setter
    def model(self, model: Functional) -> None:
        self.models = {"own": [model]}


class Readout(Quadratic):
    """f = z'Az/2 - z'(B lambda + b) and F = |Cz - y|^2 / 2, where y has two entries.

    An affine inner problem with training targets y: a model whose layer is a solve.
    """

    def __init__(
        self,
        inner_dim: int,
        outer_dim: int,
        noise: float,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        super().__init__(inner_dim, outer_dim, noise, device, generator)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.target)

        self.offset, self.output, self.goal = normal(inner_dim), normal(2, inner_dim), normal(2)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return super().inner_loss(inner, outer, batch) - inner["z"] @ self.offset

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.output @ inner["z"] - self.goal).square().sum()


class Direct(Quadratic):
    """F = |lambda - 3|^2 / 2, whatever z is: gradient descent on F has a closed form."""

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (outer["lam"] - 3.0).square().sum() + 0.0 * inner["z"].sum()

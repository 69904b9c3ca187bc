"""A problem whose rows, inner parameters, outer parameters and inner steps are set apart."""

import math
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from bilevel_cli.core import autodiff, growth
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import graphs

BLOCK = 64  # rows


class Weighting:
    """A linear regression with weights of rows and a decay, both of the outer parameters.

    f = mean_i sigmoid(lambda_g(i)) (x_i z - y_i)^2 + (0.1 + mean(lambda^2)) |z|^2, where rows are
    dealt to groups g, one for an outer parameter. F is minus the mean squared error without
    weights. It rises along the inner steps, so that IAPTT, too, looks at the last of them. One
    product with the rows takes rows * inner multiplications.

    Args:
        sizes: rows, inner, outer and steps.
    """

    episodes = None

    def __init__(self, sizes: dict[str, int]) -> None:
        rows, inner, outer = sizes["rows"], sizes["inner"], sizes["outer"]
        seeded = torch.Generator().manual_seed(0)
        self.x = torch.randn(rows, inner, generator=seeded) / math.sqrt(inner)
        self.y = torch.randn(rows, generator=seeded)
        self.group = torch.arange(rows) % outer
        self.outer = {"logits": torch.linspace(-1.0, 1.0, outer)}
        self.start, self.steps = {"z": torch.zeros(inner)}, sizes["steps"]
        self.blocks = (-(-rows // BLOCK), 1)  # for methods that remember what they saw of each

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def errors(self, inner: Params) -> Tensor:
        return (self.x @ inner["z"] - self.y).square()

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        weights = outer["logits"].sigmoid()[self.group]
        # Vectors until the sum: under forward mode, torch takes a derivative of 0.1 + mean(...),
        # which has no dimension, to float64.
        decay = (0.1 + outer["logits"].square()).mean(0, keepdim=True)
        return (weights * self.errors(inner)).mean() + (decay * inner["z"].square()).sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return -self.errors(inner).mean()

    def data(self, extra: int) -> StepData:
        batches = {"block": torch.zeros((), dtype=torch.int64).expand(self.steps + extra)}
        return StepData(self.start, batches, {}).split(self.steps)


class Estimating:
    """One estimate of a method on `Weighting`, to be repeated.

    Args:
        config: With the method, its solver and its start.
        sizes: Of the problem.

    Raises:
        ValueError: The method refuses the problem, for its size or otherwise.
    """

    def __init__(self, config: DictConfig, sizes: dict[str, int]) -> None:
        self.method: Hypergradient[Any] = instantiate(config.method)
        problem = Weighting(sizes)
        self.loop = InnerLoop(problem, instantiate(config.solver), instantiate(config.start))
        data = problem.data(self.method.extra_batches)
        self.outer = {**self.loop.outer_init(data, problem.outer), **problem.outer}
        noise = self.method.draw(self.outer, torch.Generator().manual_seed(0))
        self.data = data._replace(noise=noise)
        self.method.check(self.loop, self.outer, self.data)
        fresh = self.loop.fresh(self.outer, self.data)
        self.carry = self.method.begin(self.loop, self.outer, self.data, fresh)
        self.metrics: dict[str, Any] = {}

    def __call__(self) -> None:
        found = self.method.estimate(self.loop, self.outer, self.data, self.carry)
        self.metrics = found.metrics

    def gradient(self) -> None:
        """One inner gradient, which the processor, too, may do more slowly than in proportion."""
        problem, batch = self.loop.problem, self.data.inner_at(0)
        autodiff.grad(lambda z: problem.inner_loss(z, self.outer, batch))(self.data.init)

    def declared(self) -> tuple[float, float, str]:
        """What the method says of these sizes, after a first estimate.

        Returns:
            Numbers held at once; gradients and products, each as one; and what the most of the
            numbers are, empty where they are what every method holds.
        """
        graphs.graph_of_step(self.loop, self.outer, self.data)
        sizes = graphs.sized(self.loop, self.outer, self.data)
        parts = self.method.holds(sizes)
        every = 1.5 * sizes.graph + 8 * sizes.state + 5 * sizes.outer
        most = max(parts, key=lambda part: part.numbers, default=None)
        what = most.what if most and most.numbers > every else ""
        cost = self.method.cost(sizes.steps, self.outer, self.data.init, self.metrics)
        return every + growth.numbers(parts), float(cost.inner_grads + cost.hvps), what

"""How outer parameters become poisoned inputs."""

import abc
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws, trees
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.building import build


class Box(NamedTuple):
    """The inputs that an attacker may use; both bounds broadcast with inputs [n, ...]."""

    low: Tensor
    high: Tensor

    def clamp(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.low), self.high)


class Attack(abc.ABC):
    """A map from outer parameters to m poisoned inputs in a box.

    Args:
        x: The training examples from which poisons are made, floating, of shape [m, ...].
        y: The labels that poisons bear, int64, of shape [m].
        box: Where their inputs may lie.
    """

    def __init__(self, x: Tensor, y: Tensor, box: Box) -> None:
        self.x, self.y, self.box = x, y, box

    @abc.abstractmethod
    def init(self, generator: torch.Generator) -> Params:
        """The outer parameters before the first step, on the device of the examples.

        Args:
            generator: On the CPU.
        """

    @abc.abstractmethod
    def inputs(self, outer: Params) -> Tensor:
        """The poisoned inputs, of the shape of `x`, differentiable in `outer`."""

    def project(self, outer: Params) -> Params:
        """The nearest admissible outer parameters; all are, unless a class differs."""
        return outer


class Points(Attack):
    """The poisoned inputs are the outer parameters, kept in the box.

    Args:
        begin: "examples": at training examples; "random": anywhere in the box.
        x: As `Attack`, like those that follow.
        y: As `Attack`.
        box: As `Attack`.
    """

    def __init__(self, begin: str, x: Tensor, y: Tensor, box: Box) -> None:
        super().__init__(x, y, box)
        if begin not in ("examples", "random"):
            raise ValueError(
                f"Points needs begin=examples or begin=random, got begin={begin}. "
                "Set task.attack.begin."
            )
        self.begin = begin

    def init(self, generator: torch.Generator) -> Params:
        if self.begin == "examples":
            return {"points": self.box.clamp(self.x)}
        drawn = draws.uniform(*self.x.shape, generator=generator).to(self.x)
        return {"points": self.box.low + (self.box.high - self.box.low) * drawn}

    def inputs(self, outer: Params) -> Tensor:
        return outer["points"]

    def project(self, outer: Params) -> Params:
        return {**outer, "points": self.box.clamp(outer["points"])}


NETWORK = "attack."


class Network(Attack):
    """A network makes the poisoned inputs of training examples and labels; its weights are outer.

    It sees an example, flat, behind the number of its label (Lu, Kamath and Yu, 2022,
    arXiv:2204.09092: 785 -> 784 -> 784 -> 784 with tanh, for MNIST). Its outputs go through tanh,
    so that they fill the box and never leave it.

    Args:
        network: A network as conf/model builds it.
        x: As `Attack`, like those that follow.
        y: As `Attack`.
        box: As `Attack`.
    """

    def __init__(self, network: Callable[..., nn.Module], x: Tensor, y: Tensor, box: Box) -> None:
        super().__init__(x, y, box)
        self.seen = torch.cat([y[:, None].to(x), x.flatten(1)], 1)
        size = math.prod(x.shape[1:])
        self.model = build(network, (1 + size,), size, x.device)

    def init(self, generator: torch.Generator) -> Params:
        return trees.prefixed(NETWORK, self.model.init(generator))

    def inputs(self, outer: Params) -> Tensor:
        output = self.model.apply(trees.under(NETWORK, outer), self.seen).reshape(self.x.shape)
        # Exact at both bounds, where saturated outputs would else be a rounding outside.
        return torch.lerp(self.box.low, self.box.high, (output.tanh() + 1) / 2)

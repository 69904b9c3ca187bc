"""A network linearised around a point: a model that is linear in its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional


@dataclass(frozen=True)
class Linearised(Functional):
    """The first-order expansion of a network in its parameters z, around z_0:

        output(z, x) = network(z_0, x) + d_z network(z_0, x) (z - z_0),

    and the features likewise. It equals the network at z_0, where its derivatives in z are also the
    network's. A loss that is convex in outputs is convex in z.

    The product with the derivative is taken by reverse mode twice, so that all further derivatives
    are of one kind, as everywhere in an inner loop. An output takes three passes through the
    network in place of one.

    Args:
        base: The network.
        at: z_0, a value for each of its parameters.
    """

    base: Functional
    at: Params

    @classmethod
    def around(cls, base: Functional, at: Params) -> "Linearised":
        """The network `base`, linearised around its parameters `at`."""
        made = base.make, base.module, base.seed, base.attends, base.corrects, base.not_twice
        return cls(*made, base, at)

    def apply(self, params: Params, x: Tensor) -> Tensor:
        return self._expanded(self.base.apply, params, x)

    def features(self, params: Params, x: Tensor) -> Tensor:
        return self._expanded(self.base.features, params, x)

    def _expanded(
        self, network: Callable[[Params, Tensor], Tensor], params: Params, x: Tensor
    ) -> Tensor:
        def output(params: Params) -> Tensor:
            return network(params, x)

        moved = {name: params[name] - value for name, value in self.at.items()}
        value, change = pushed(output, self.at, moved)
        return value + change


def pushed(fn: Callable[[Params], Tensor], at: Params, direction: Params) -> tuple[Tensor, Tensor]:
    """The value of `fn` and its derivative along a direction, (fn(at), J direction).

    J^T u is linear in u, and the transpose of its own derivative is J.

    Args:
        fn: A differentiable function.
        at: Where.
        direction: Of the shapes of `at`.
    """
    value, pullback = autodiff.vjp(fn, at)

    def transposed(cotangent: Tensor) -> Any:
        return pullback(cotangent)[0]

    _, push = autodiff.vjp(transposed, torch.zeros_like(value))
    return value, push(direction)[0]

"""Nesterov's accelerated gradient method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, Learned, SolverState, check_lr, counter, value
from bilevel_cli.core.trees import Params


class NesterovState(SolverState):
    previous: Params  # z one step before, in the shapes of `inner`
    t: Tensor  # t_k, 0-dim
    weight: Tensor  # weight_k, 0-dim


@dataclass(frozen=True)
class Nesterov(InnerSolver[NesterovState]):
    """The accelerated gradient method with the sequence of FISTA (Beck & Teboulle, 2009).

        u_k     = z_k + weight_k * (z_k - z_{k-1}),    weight_k = (t_{k-1} - 1) / t_k
        z_{k+1} = u_k - lr * grad f(u_k)
        t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2,         t_0 = 1, weight_0 = 0

    Optimal for convex f with lr = 1 / L, where L is the Lipschitz constant of grad f. This is the
    "accelerated" variant of Liu et al. (2021, arXiv:2110.00455), whose print lacks the factor 4.
    Without that factor t tends to 4/3 and the momentum to the constant 1/4, and nothing is
    accelerated.

    Args:
        lr: Step size.
    """

    lr: float | Learned

    def __post_init__(self) -> None:
        check_lr("Nesterov", self.lr)

    def init(self, inner: Params) -> NesterovState:
        # `previous` is read with weight zero first, so a start may replace `inner` alone.
        return {
            "inner": inner,
            "previous": inner,
            "t": counter(inner, 1.0),
            "weight": counter(inner, 0.0),
        }

    def step(self, oracle: Oracle, state: NesterovState) -> NesterovState:
        z, t = state["inner"], state["t"]
        displacement = trees.axpy(-1.0, state["previous"], z)
        ahead = trees.axpy(state["weight"], displacement, z)
        following = (1 + torch.sqrt(1 + 4 * t**2)) / 2
        return {
            "inner": trees.axpy(-value(self.lr, oracle.outer), oracle.inner_grad(ahead), ahead),
            "previous": z,
            "t": following,
            "weight": (t - 1) / following,
        }

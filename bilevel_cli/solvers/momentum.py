"""Gradient descent with momentum, in the two forms of torch.optim.SGD."""

from dataclasses import dataclass

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import (
    InnerSolver,
    Learned,
    LearnedFraction,
    SolverState,
    check_lr,
    value,
)
from bilevel_cli.core.trees import Params, Scalar


class MomentumState(SolverState):
    velocity: Params  # in the shapes of `inner`


@dataclass(frozen=True)
class Momentum(InnerSolver[MomentumState]):
    """Heavy-ball momentum (Polyak, 1964), as torch.optim.SGD(momentum=...) has it.

        v_{t+1} = momentum * v_t + grad f(z_t)
        z_{t+1} = z_t - lr * v_{t+1}

    Args:
        lr: Step size.
        momentum: Decay of the velocity, in [0, 1).
    """

    lr: float | Learned
    momentum: float | LearnedFraction

    def __post_init__(self) -> None:
        check_lr(type(self).__name__, self.lr)
        if not isinstance(self.momentum, LearnedFraction) and not 0 <= self.momentum < 1:
            raise ValueError(
                f"{type(self).__name__} needs momentum in [0, 1), got momentum={self.momentum}. "
                "Use solver=gd for plain gradient descent."
            )

    def init(self, inner: Params) -> MomentumState:
        return {"inner": inner, "velocity": trees.zeros_like(inner)}

    def step(self, oracle: Oracle, state: MomentumState) -> MomentumState:
        z, grad = state["inner"], oracle.inner_grad(state["inner"])
        momentum = value(self.momentum, oracle.outer)
        velocity = trees.axpy(momentum, state["velocity"], grad)
        step = self._direction(grad, velocity, momentum)
        lr: Scalar = value(self.lr, oracle.outer)
        return {"inner": trees.axpy(-lr, step, z), "velocity": velocity}

    def _direction(self, grad: Params, velocity: Params, momentum: Scalar) -> Params:
        del grad, momentum
        return velocity


@dataclass(frozen=True)
class NesterovMomentum(Momentum):
    """Nesterov momentum in the form of Sutskever et al. (2013): torch.optim.SGD(nesterov=True).

    z_{t+1} = z_t - lr * (grad f(z_t) + momentum * v_{t+1}), with v as in `Momentum`. For the
    accelerated method with its growing momentum see `solvers.nesterov`.

    Args:
        lr: Step size.
        momentum: Decay of the velocity, in [0, 1).
    """

    def _direction(self, grad: Params, velocity: Params, momentum: Scalar) -> Params:
        return trees.axpy(momentum, velocity, grad)

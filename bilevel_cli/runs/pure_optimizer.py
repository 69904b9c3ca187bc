"""The steps of outer optimizers as pure functions, to be compiled together with what comes before.

The inner solvers are torch's optimizers already, as pure functions; so they serve here too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.solver import InnerSolver, Learned
from bilevel_cli.core.trees import Params
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum, NesterovMomentum

Update = Callable[[Tensor, Tensor, Params, Tensor], tuple[Tensor, Params]]
"""From a parameter, its gradient, the optimizer's memory of it and a 0-dim step size to the
parameter and the memory after a step."""


def update(optimizer: Optimizer, group: dict[str, Any]) -> Update | None:
    """The step of an optimizer; None where there is no pure function for it.

    An optimizer of another kind brings its own as the method `pure(group)`.

    Args:
        optimizer: The optimizer.
        group: One of its groups of parameters, for the settings.
    """
    own = getattr(optimizer, "pure", None)
    if own is not None:
        found: Update | None = own(group)
        return found
    twin = TWINS.get(type(optimizer))
    return None if twin is None else twin(group)


class _Given(Learned):
    """A setting of a solver that is handed to it as it is."""

    def __call__(self, outer: Params) -> Tensor:
        return outer[self.name]


LR = _Given("lr")


def _sgd(group: dict[str, Any]) -> Update | None:
    momentum, nesterov = group["momentum"], group["nesterov"]
    if group["maximize"] or group["dampening"]:
        return None
    if not momentum:
        return _stepping(GradientDescent(LR), {}, group["weight_decay"])
    kind = NesterovMomentum if nesterov else Momentum
    names = {"velocity": "momentum_buffer"}
    return _stepping(kind(LR, momentum), names, group["weight_decay"])


def _adam(group: dict[str, Any]) -> Update | None:
    if group["maximize"] or group["amsgrad"] or group.get("decoupled_weight_decay"):
        return None
    beta1, beta2 = group["betas"]
    names = {"mean": "exp_avg", "square": "exp_avg_sq", "count": "step"}
    return _stepping(Adam(LR, beta1, beta2, group["eps"]), names, group["weight_decay"])


TWINS: dict[type, Callable[[dict[str, Any]], Update | None]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
}


def _stepping(solver: InnerSolver[Any], names: dict[str, str], weight_decay: float) -> Update:
    """The step of a solver on one tensor.

    Args:
        solver: Its step size is `LR`.
        names: The optimizer's names of the entries of the solver's state.
        weight_decay: The share of the parameter that is added to its gradient.
    """

    def step(value: Tensor, grad: Tensor, memory: Params, lr: Tensor) -> tuple[Tensor, Params]:
        grad = grad + weight_decay * value if weight_decay else grad
        state: Any = {"inner": {"": value}}
        for own, name in names.items():
            # A count of torch's is in float32, in which no power of a decay is exact enough.
            old = memory[name]
            state[own] = old.double() if own == "count" else {"": old}
        state = solver.step(FixedOracle({"lr": lr}, {"": grad}), state)
        after = {
            name: state[own].to(memory[name].dtype) if own == "count" else state[own][""]
            for own, name in names.items()
        }
        return state["inner"][""].to(value.dtype), after

    return step


def step_sizes(scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """The step sizes of the next steps, by groups of parameters; the scheduler goes on behind them.

    Args:
        scheduler: Of the step sizes of an optimizer.
        steps: How many, >= 1.
    """
    groups = scheduler.optimizer.param_groups
    if type(scheduler) is not LambdaLR:
        found = []
        for _ in range(steps):
            found.append([float(group["lr"]) for group in groups])
            scheduler.step()
        return found
    # As its `step` has it, which takes longer than a whole outer step may.
    first, pairs = (
        scheduler.last_epoch,
        list(zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)),
    )
    found = [[float(group["lr"]) for group in groups]]
    for number in range(first + 1, first + steps + 1):
        found.append([float(base * factor(number)) for base, factor in pairs])
    scheduler.last_epoch = first + steps - 1
    scheduler._step_count += steps - 1
    scheduler.step()
    return found[:steps]

"""What penalties on the value function of the inner problem have in common."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Hypergradient
from bilevel_cli.core.oracle import OracleWrapper
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_MINIMISER
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.trees import Params, Scalar


class PenaltyCarry(Carry):
    value: SolverState  # the state of z, whose loss is the value f(z) ~ min f
    count: Tensor  # outer steps taken, 0-dim


class ValuePenalty(Hypergradient[PenaltyCarry]):
    """A method that moves y against F and a penalty on the value gap f(y) - f(z), and z along f."""

    remembers = True

    def init(self, outer: Params, state: SolverState) -> PenaltyCarry:
        return {"inner": state, "value": state, "count": counter(state["inner"], 0.0)}

    requires = AT_A_MINIMISER

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        # Where the constraint holds, the estimate does not look at f.
        return super().zero_tells(row, step) and row.get("multiplier", 1.0) != 0

    def followed(
        self,
        loop: InnerLoop,
        outer: Params,
        data: StepData,
        before: PenaltyCarry,
        after: PenaltyCarry,
    ) -> tuple[Params, Params]:
        return loop.begin(outer, data, before["value"])["inner"], after["value"]["inner"]


def penalised_gradient(
    loop: InnerLoop,
    outer: Params,
    data: StepData,
    y: Params,
    z: Params,
    penalty: Callable[[Tensor], Tensor],
) -> tuple[Params, Tensor, Tensor]:
    """The gradient in `outer` of F(y, outer) + penalty(f(y, outer) - f(z, outer)).

    Both y and z are constants. At minimisers in y and z this is the total derivative, by the
    envelope theorem: no second derivative is left. It takes two gradients of f.

    Args:
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of one inner problem, whose last inner minibatch is that of f.
        y: Inner parameters at which F and f are taken.
        z: Inner parameters at which f has its smallest value, or nearly so.
        penalty: A differentiable function of the gap, from 0-dim to 0-dim.

    Returns:
        The gradient, of the shapes of `outer`; F(y, outer) and the gap f(y, outer) - f(z, outer),
        both 0-dim.
    """
    problem, batch = loop.problem, data.inner_at(-1)

    def penalised(outer: Params) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        loss = problem.outer_loss(y, outer, data.outer)
        gap = problem.inner_loss(y, outer, batch) - problem.inner_loss(z, outer, batch)
        return loss + penalty(gap), (loss, gap)

    grad, (_, (loss, gap)) = autodiff.grad_and_value(penalised, has_aux=True)(outer)
    return grad, loss, gap


@dataclass(frozen=True)
class Proximal(OracleWrapper):
    """f + weight / 2 * |z - center|^2 in place of f.

    Args:
        base: The oracle of f.
        weight: 0-dim where it is a tensor. A negative weight drives z away from the center.
        center: A constant, of the shapes of z.
    """

    weight: Scalar
    center: Params

    def inner_grad(self, inner: Params) -> Params:
        drift = trees.axpy(-1.0, self.center, inner)
        return trees.axpy(self.weight, drift, self.base.inner_grad(inner))

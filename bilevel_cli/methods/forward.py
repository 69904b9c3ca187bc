"""Forward-mode differentiation of the inner loop."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import copies
from bilevel_cli.methods.parts.unroll import inner_grads


@dataclass(frozen=True)
class Forward(Hypergradient[Carry]):
    """Carries dz_t/dlambda along the inner steps (Franceschi et al., 2017, arXiv:1703.01785).

    The same exact derivative of F(z_K(lambda), lambda) as `Reverse`, with memory that does not
    grow with K: one solver state for each outer parameter, as many of them at once as the memory
    budget of the device holds. Meant for few outer parameters.

    It differentiates forward over reverse. That order is right for every layer of torch 2.13; the
    opposite one is silently wrong for batch and layer normalisation.

    Cost: K inner gradients for each piece of the outer parameters, and a product for each step and
    outer parameter.
    """

    def holds(self, sizes: Sizes) -> Parts:
        return copies.tangents(sizes, sizes.outer, "method=reverse")

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        copies.measure(loop, outer, data)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        flat, unravel = trees.ravel(outer)

        def final_loss(flat: Tensor) -> tuple[Tensor, tuple[Tensor, SolverState]]:
            outer = unravel(flat)
            state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
            loss = loop.problem.outer_loss(state["inner"], outer, data.outer)
            return loss, (loss, state)

        some = copies.at_once(copies.tangents, len(flat), loop, outer, data)
        grad, (loss, state) = autodiff.jacfwd(final_loss, has_aux=True, at_once=some)(flat)
        counts = copies.evaluations(data.num_steps, len(flat), some, outer)
        return Estimate(unravel(grad), loss, {"inner": state}, counts)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(inner_grads(metrics, num_steps), num_steps * trees.size(outer))

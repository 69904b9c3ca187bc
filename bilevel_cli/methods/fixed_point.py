"""Implicit differentiation of the solver's own fixed point."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import losses_depend_on_outer, start_is_constant, steps_rest
from bilevel_cli.core.residuals import UNSOLVED, residual_doubt
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.methods.parts.derivatives import outer_slope

ROUNDS = 200  # estimates after which the claim of a warm adjoint looks for its limit


class FixedPointCarry(Carry):
    adjoint: Any  # of the solver's whole state


@dataclass(frozen=True)
class FixedPoint(Hypergradient[FixedPointCarry]):
    """The implicit function theorem on s = Phi(s, lambda), the step of the inner solver.

        v_{j+1} = (d_s Phi)^T v_j + d_s F,    dF/dlambda = d_lambda F + (d_lambda Phi)^T v_K

    (Grazzi et al., 2020, arXiv:2006.16218), from v_0 = 0. Here s is the whole state of the solver,
    such as with its momentum, and F depends on its inner parameters alone. All derivatives are
    taken at the last state, on the last inner minibatch, from one retained graph of one more step.
    The iteration converges where the solver does. With gradient descent it is the Neumann series of
    as many terms and the same step size. At a fixed point it is truncated backpropagation through
    as many steps.

    Reports how far the last term moved v, relative to d_s F: the residual of the v before it.

    Cost: K + 1 inner gradients, and a product for each term.

    Args:
        max_steps: Number of terms.
        warm_adjoint: Begin at the adjoint of the last outer step, not at zero. Takes one product
            more.
    """

    max_steps: int
    warm_adjoint: bool

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(
                f"FixedPoint needs max_steps >= 1 terms, got max_steps={self.max_steps}. "
                "Use method=identity for no iteration."
            )

    @property
    def remembers(self) -> bool:  # type: ignore[override]  # read-only: a setting decides
        return self.warm_adjoint

    def init(self, outer: Params, state: SolverState) -> FixedPointCarry:
        return {"inner": state, "adjoint": trees.map_leaves(torch.zeros_like, state)}

    requires = (losses_depend_on_outer, start_is_constant, steps_rest)

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        advice = (
            "Raise method.max_steps; or where it grows with them, lower the step size of the "
            "solver, solver.lr, with which the inner loop does not contract; or use method=cg."
        )
        return residual_doubt(row, advice, UNSOLVED)

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: FixedPointCarry
    ) -> Estimate:
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        direct_inner, direct, loss = outer_slope(loop.problem, state["inner"], outer, data.outer)

        def one_more(state: SolverState, outer: Params) -> SolverState:
            return loop.step(state, outer, data, data.num_steps - 1)

        _, pullback = autodiff.vjp(one_more, state, outer)
        target = {**trees.map_leaves(torch.zeros_like, state), "inner": direct_inner}
        before, adjoint = trees.map_leaves(torch.zeros_like, target), target
        if self.warm_adjoint:
            adjoint = carry["adjoint"]
        for _ in range(self.max_steps if self.warm_adjoint else self.max_steps - 1):
            before = adjoint
            adjoint = trees.map_leaves(torch.add, pullback(adjoint, (0,))[0], target)
        grad = trees.axpy(1.0, pullback(adjoint, (1,))[0], direct)
        moved = _ravel(trees.map_leaves(torch.sub, adjoint, before))[0].norm()
        scale = _ravel(target)[0].norm()
        residual = moved / torch.where(scale > 0, scale, 1.0)
        metrics = {"adjoint_residual": residual}
        return Estimate(grad, loss, {"inner": state, "adjoint": adjoint}, metrics)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        # From zero the first term needs no product; the last one is with the cross derivative.
        return Cost(num_steps + 1, self.max_steps + self.warm_adjoint)

    def claim(self) -> Claim:
        if self.warm_adjoint:
            text = "the implicit hypergradient of the last state, in the limit"
            return Claim(text, self._reference, tolerance=1e-4, kind="limit", repeats=ROUNDS)
        text = f"the implicit hypergradient of the last state, by {self.max_steps} terms"
        return Claim(text, self._reference)

    def _reference(self, trial: Trial) -> Params:
        loop, data, number = trial.loop, trial.data, trial.data.num_steps - 1
        state = references.state_after(trial, data.num_steps)
        flat, unravel = _ravel(state)

        def step(vector: Tensor) -> Tensor:
            return _ravel(loop.step(unravel(vector), trial.outer, data, number))[0]

        # By forward mode, while the estimate goes backward. No central difference: Adam's second
        # moments are smaller than any step of one.
        transposed = autodiff.jacfwd(step)(flat).T
        slope, direct = autodiff.grad(loop.problem.outer_loss, (0, 1))(
            trial.last, trial.outer, data.outer
        )
        zero = trees.map_leaves(torch.zeros_like, state)
        target = _ravel({**zero, "inner": slope})[0]
        adjoint = torch.zeros_like(target)
        for _ in range(self.max_steps * (ROUNDS if self.warm_adjoint else 1)):
            adjoint = transposed @ adjoint + target

        def along(outer: Params) -> Tensor:
            return _ravel(loop.step(state, outer, data, number))[0] @ adjoint

        return trees.axpy(1.0, references.differenced(along, trial.outer), direct)


def _ravel(state: Tree) -> tuple[Tensor, Any]:
    """The solver's state as one vector, and the function that undoes it."""
    leaves = trees.leaves(state)

    def unravel(vector: Tensor) -> Tree:
        pieces = iter(torch.split(vector, [leaf.numel() for leaf in leaves]))
        return trees.map_leaves(lambda leaf: next(pieces).reshape(leaf.shape), state)

    return torch.cat([leaf.reshape(-1) for leaf in leaves]), unravel

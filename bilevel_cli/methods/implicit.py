"""Implicit differentiation at the end of the inner loop."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, output_curvature, references, trees
from bilevel_cli.core.claim import Claim, Trial
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import (
    AT_A_SOLUTION,
    an_inner_loss,
    model_outputs,
    outer_loss_contains_outer,
)
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.methods.parts.adjoint import adjoint
from bilevel_cli.methods.parts.clipping import check_clip, clipped
from bilevel_cli.methods.parts.derivatives import outer_slope
from bilevel_cli.methods.parts.gauss_newton import gauss_newton

ROUNDS = 200  # solves, each begun at the adjoint of the last, after which a claim looks for a limit

CURVATURES = ("hessian", "gauss_newton")


class ImplicitCarry(Carry):
    adjoint: Params


@dataclass(frozen=True)
class Implicit(Hypergradient[ImplicitCarry]):
    """The implicit function theorem, with a choice of linear solver.

    Where the inner gradient vanishes,

        dF/dlambda = d_lambda F - (d_lambda d_z f)^T v,    H v = d_z F,    H = d_z^2 f.

    Where the problem has an inner field G in place of d_z f, H is the transposed Jacobian
    (d_z G)^T, and a linear solver that needs a symmetric matrix is refused. Where the solver keeps
    z in a set, H and d_z F are those of the entries that the set lets move, and v is zero for the
    others. All derivatives are taken at the last inner iterate, on the last inner minibatch, from
    one retained graph of the inner gradient (AID, Pedregosa, 2016, arXiv:1602.02355; Grazzi et al.,
    2020, arXiv:2006.16218). The start is not differentiated, and a learned one is refused.

    Reports the relative residual |H v - d_z F| / |d_z F|, and what the linear solver reports.

    With the curvature "gauss_newton", H is the Gauss-Newton matrix J^T h'' J: f is a loss h of the
    outputs of a model, and J their derivative in z. It is the Hessian where the outputs are linear
    in z. Elsewhere it is that of a model linearised at z_K, positive semi-definite for the usual
    losses, so that conjugate gradient is safe. Damped, it gives the response that influence
    estimates of networks follow (Bae et al., 2022, arXiv:2209.05364).

    With clip="direct", the implicit part of each outer parameter, by name, is scaled down to the
    norm of its direct part d_lambda F (RCIG, Loo et al., 2023, arXiv:2302.06755). The estimate is
    then not the hypergradient wherever that happens. `implicit_clipped` is the share of the names
    that were scaled, `implicit_scale` the smallest factor.

    Cost: K + 1 inner gradients, the products of the linear solver, one product for the residual,
    and one with the cross derivative.

    Args:
        linear_solver: Solves for the adjoint v.
        warm_adjoint: Begin each solve at the adjoint of the last outer step, not at zero.
        curvature: "hessian", or "gauss_newton" for a problem that says its model outputs.
        clip: "direct", or null. Where F does not contain an outer parameter directly, "direct"
            would leave it no gradient at all, and is refused.
    """

    linear_solver: LinearSolver
    warm_adjoint: bool
    curvature: str
    clip: str | None

    def __post_init__(self) -> None:
        if self.curvature not in CURVATURES:
            raise ValueError(
                f"Implicit needs curvature to be one of {', '.join(CURVATURES)}, got "
                f"curvature={self.curvature}. Set method.curvature."
            )
        check_clip("Implicit", self.clip)

    @property
    def remembers(self) -> bool:  # type: ignore[override]  # read-only: a setting decides
        return self.warm_adjoint

    def holds(self, sizes: Sizes) -> Parts:
        held = self.linear_solver.holds(sizes.inner)
        if self.curvature == "hessian":
            return held
        what = "the graphs of the outputs of the model and of their derivative"
        return (*held, Part(what, sizes.graph, ("method.curvature=hessian",)))

    def init(self, outer: Params, state: SolverState) -> ImplicitCarry:
        return {"inner": state, "adjoint": trees.zeros_like(state["inner"])}

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return self.linear_solver.draw(generator)

    requires = AT_A_SOLUTION

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        if self.linear_solver.symmetric or self.curvature == "gauss_newton":
            an_inner_loss(type(self.linear_solver).__name__, loop, outer, data)
        super().check(loop, outer, data)
        if self.curvature == "gauss_newton":
            model_outputs(type(self).__name__, loop, outer, data)
        if self.clip is not None:
            outer_loss_contains_outer(f"clip={self.clip}", loop, outer, data)

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return self.linear_solver.doubts(row)

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: ImplicitCarry
    ) -> Estimate:
        problem = loop.problem
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        inner, batch = state["inner"], data.inner_at(-1)
        direct_inner, direct, loss = outer_slope(problem, inner, outer, data.outer)
        solver = self.linear_solver.given(data.noise)
        guess = carry["adjoint"] if self.warm_adjoint else None
        curvature = None
        if self.curvature == "gauss_newton":
            curvature = gauss_newton(problem, inner, outer, batch)
        found = adjoint(loop, inner, outer, batch, direct_inner, solver, guess, curvature)
        response = found.response
        more: dict[str, Tensor] = {}
        if self.clip is not None:
            response, more = clipped(response, direct)
        return Estimate(
            grad=trees.axpy(-1.0, response, direct),
            loss=loss,
            carry={"inner": state, "adjoint": found.vector},
            metrics=found.metrics | more,
        )

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        # Besides the solver's: the residual, and the product with the cross derivative.
        return Cost(num_steps + 1, self.linear_solver.products(trees.size(inner)) + 2)

    def claim(self) -> Claim:
        name = type(self.linear_solver).__name__
        of = " of the Gauss-Newton matrix" if self.curvature == "gauss_newton" else ""
        if self.clip is not None:
            of += f", its implicit part clipped to the {self.clip} one"
        if self.warm_adjoint:
            text = f"the implicit hypergradient at z_K, in the limit of solves by {name}{of}"
            return Claim(text, self._reference, tolerance=1e-4, kind="limit", repeats=ROUNDS)
        text = f"the implicit hypergradient at z_K, with {name} for the inverse{of}"
        return Claim(text, self._reference)

    def _reference(self, trial: Trial) -> Params:
        slope, direct = autodiff.grad(trial.loop.problem.outer_loss, (0, 1))(
            trial.last, trial.outer, trial.data.outer
        )
        rhs = trees.ravel(trees.masked(slope, trial.loop.free(trial.last)))[0]
        rounds = ROUNDS if self.warm_adjoint else 1
        solver = self.linear_solver.given(trial.data.noise)
        curvature = output_curvature.gauss_newton if self.curvature == "gauss_newton" else None

        def inverse(matrix: Tensor) -> Tensor:
            return solver.inverse(matrix, rhs, rounds)

        whole = references.implicit(inverse, curvature)(trial)
        return whole if self.clip is None else _kept_within(direct, whole)


def _kept_within(direct: Params, whole: Params) -> Params:
    """The direct parts, and of the implicit ones as much as is no longer."""
    kept = {}
    for name, part in direct.items():
        implicit = whole[name] - part
        most = torch.linalg.vector_norm(part) / torch.linalg.vector_norm(implicit)
        kept[name] = part + torch.clamp(torch.nan_to_num(most, nan=1.0), max=1.0) * implicit
    return kept

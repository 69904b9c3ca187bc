"""Gauss-Newton products: the Hessian of linear models, J'HJ of others, and what runs make of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from claims import held_to_its_claim
from problems import Quadratic, estimate, seeded
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.episodes import over_episodes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.methods.imaml import ImplicitMaml
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.parts.gauss_newton import gauss_newton
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.weight_decay import WeightDecay
from bilevel_cli.starts.cold import Cold


class Classifier(OutputLoss):
    """Twelve points of three classes, a weight for each, by a linear model or an MLP."""

    def __init__(self, hidden: int | None, l2: float = 0.02) -> None:
        self.hidden, self.l2 = hidden, l2
        self.x = torch.randn(12, 2, generator=seeded(1), dtype=torch.float64)
        self.y = torch.arange(12) % 3
        sizes = [(2, 3)] if hidden is None else [(2, hidden), (hidden, 3)]
        self.start = {
            f"w{number}": torch.randn(*size, generator=seeded(number), dtype=torch.float64)
            for number, size in enumerate(sizes)
        }

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        found = self.x @ inner["w0"]
        return found if self.hidden is None else found.tanh() @ inner["w1"]

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        losses = torch.nn.functional.cross_entropy(outputs, self.y, reduction="none")
        return (outer["weights"].sigmoid() * losses).mean() + self.l2 * trees.dot(inner, inner)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return torch.stack([(w - 0.3).square().sum() for w in inner.values()]).sum()

    def data(self, steps: int) -> StepData:
        return StepData(self.start, {"unused": torch.zeros(steps)}, {})

    def outer(self) -> Params:
        return {"weights": torch.linspace(-1, 1, 12, dtype=torch.float64)}


def dense(product: Callable[[Params], Params], at: Params) -> Tensor:
    """The matrix of a function that is linear in trees of the shapes of `at`."""
    flat, unravel = trees.ravel(at)
    axes = torch.eye(len(flat), dtype=flat.dtype)
    return torch.stack([trees.ravel(product(unravel(axis)))[0] for axis in axes], dim=1)


def both(problem: Classifier) -> tuple[Tensor, Tensor]:
    """The Gauss-Newton matrix and the Hessian at the start."""
    outer, at = problem.outer(), problem.start
    batch: Batch = {}
    slope = autodiff.grad(problem.inner_loss)
    _, pullback = autodiff.vjp(lambda z: slope(z, outer, batch), at)
    return (
        dense(gauss_newton(problem, at, outer, batch), at),
        dense(lambda v: pullback(v)[0], at),
    )


def test_of_a_linear_model_with_a_convex_loss_it_is_the_hessian() -> None:
    found, hessian = both(Classifier(hidden=None))
    torch.testing.assert_close(found, hessian, rtol=1e-12, atol=1e-14)


def test_of_a_network_it_is_j_transposed_h_j_and_the_penalty() -> None:
    problem = Classifier(hidden=4)
    outer, (flat, unravel) = problem.outer(), trees.ravel(problem.start)
    jacobian = torch.func.jacrev(lambda v: problem.inner_outputs(unravel(v), outer, {}))(flat)
    # The Hessian of cross-entropy in logits is diag(p) - pp', of a mean of weighted losses.
    p = problem.inner_outputs(problem.start, outer, {}).softmax(1)
    weights = outer["weights"].sigmoid() / 12
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nci,n,ncd,ndj->ij", jacobian, weights, bend, jacobian)
    expected = expected + 2 * problem.l2 * torch.eye(len(flat), dtype=flat.dtype)
    found, hessian = both(problem)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    # Positive definite by the penalty, where the Hessian has a direction of negative curvature.
    assert torch.linalg.eigvalsh(found)[0] >= 2 * problem.l2 * (1 - 1e-9)
    assert torch.linalg.eigvalsh(hessian)[0] < 0


def test_conjugate_gradient_ends_where_the_hessian_stops_it() -> None:
    problem, solver = Classifier(hidden=4), ConjugateGradient(60, 1e-8)
    data, outer = problem.data(1), problem.outer()
    stopped = {
        curvature: float(
            estimate(Implicit(solver, False, curvature, None), problem, data, outer).metrics[
                "adjoint_stopped"
            ]
        )
        for curvature in ("hessian", "gauss_newton")
    }
    assert stopped == {"hessian": 1.0, "gauss_newton": 0.0}


@pytest.mark.parametrize(
    "method",
    [
        Implicit(ConjugateGradient(3, 0.0), False, "gauss_newton", None),
        Implicit(MinimumResidual(3, 0.0), False, "gauss_newton", None),
        Implicit(Neumann(5, 0.3), False, "gauss_newton", None),
        Implicit(Exact(0.1, None), False, "gauss_newton", None),
        Implicit(Exact(0.0, 1e-6), False, "gauss_newton", None),
        ImplicitMaml(ConjugateGradient(3, 0.0), False, "gauss_newton", None, 0.7),
    ],
    ids=lambda method: f"{type(method).__name__} {type(method.linear_solver).__name__}",
)
def test_estimates_are_what_they_claim_with_the_penalties_of_solvers_too(method: Any) -> None:
    problem = Classifier(hidden=3)
    solver = WeightDecay(GradientDescent(0.2), 0.1)
    held_to_its_claim(method, problem, problem.data(6), problem.outer(), solver)
    assert "Gauss-Newton" in method.claim().text


@pytest.mark.parametrize("solver", [ConjugateGradient(40, 1e-12), Exact(0.0, None)], ids=str)
def test_of_a_linear_model_the_estimate_does_not_depend_on_the_curvature(
    solver: LinearSolver,
) -> None:
    problem = Classifier(hidden=None)
    found, expected = (
        estimate(
            Implicit(solver, False, curvature, None), problem, problem.data(3), problem.outer()
        )
        for curvature in ("gauss_newton", "hessian")
    )
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-8, atol=1e-12)


class Drifting(Classifier):
    """The same network in episodes that begin elsewhere."""

    episodes = 2

    def data(self, steps: int) -> StepData:
        init = {n: torch.stack([v, 0.5 * v]) for n, v in self.start.items()}
        return StepData(init, {"unused": torch.zeros(2, steps)}, {"unused": torch.zeros(2)})


def test_mapped_over_episodes_it_is_the_mean_of_each() -> None:
    problem, method = Drifting(hidden=3), Implicit(Neumann(4, 0.2), False, "gauss_newton", None)
    loop, data = InnerLoop(problem, GradientDescent(0.1), Cold()), problem.data(2)
    outer = problem.outer()

    def one(data: StepData) -> Any:
        carry = method.init(outer, loop.fresh(outer, data))
        return method.estimate(loop, outer, data, carry)

    init, inner, last = data[:3]
    singles = []
    for i in range(2):
        here = [{n: v[i] for n, v in part.items()} for part in (init, inner, last)]
        singles.append(one(StepData(here[0], here[1], here[2])).grad["weights"])
    carry = autodiff.vmap(lambda init: method.init(outer, loop.solver.init(init)))(data.init)

    def estimated(outer: Params, data: StepData, carry: Any) -> Any:
        return method.estimate(loop, outer, data, carry)

    step = over_episodes(estimated)
    found = step(outer, data, carry).grad["weights"]
    torch.testing.assert_close(found, torch.stack(singles).mean(0), rtol=1e-9, atol=1e-12)


def test_a_problem_that_does_not_say_its_outputs_is_refused() -> None:
    problem = Quadratic()
    loop = InnerLoop(problem, WeightDecay(GradientDescent(0.1), 0.1), Cold())
    method = Implicit(Exact(0.0, None), False, "gauss_newton", None)
    with pytest.raises(ValueError, match=r"needs a problem with model outputs .* got Quadratic"):
        method.check(loop, problem.outer_init(), problem.data(2))


def test_another_curvature_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="hessian, gauss_newton, got curvature=fisher"):
        Implicit(Exact(0.0, None), False, "fisher", None)

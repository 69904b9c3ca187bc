"""The score estimate, against a mean over a Gaussian in closed form."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from problems import seeded
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.claim import NoSolution, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver, SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.parts.gaussian_chain import expected_score
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.methods.score import Score
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.langevin import Langevin
from bilevel_cli.starts.cold import Cold

A, LAM, C, TAU = 2.0, 0.7, -0.4, 0.3
OUTER = {n: torch.tensor(x, dtype=torch.float64) for n, x in (("lam", LAM), ("a", A))}
# Of J = ((lambda - c)^2 + tau / a) / 2.
J, IN_LAM, IN_A = 0.68, 1.1, -0.0375


class Toy:
    """f = (a / 2) (z - lambda)^2, F = (z - c)^2 / 2: p is normal with variance tau / a."""

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * outer["a"] * (inner["z"] - outer["lam"]).square()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - C).square()

    def data(self, steps: int) -> StepData:
        return StepData({"z": torch.tensor(LAM)}, {"unused": torch.zeros(steps)}, {})


@dataclass(frozen=True)
class Independent(InnerSolver[SolverState]):
    """Draws z from p itself, where p is that of the toy."""

    takes_draws = True
    temperature = TAU

    def init(self, inner: Params) -> SolverState:
        return {"inner": inner}

    def draw(self, inner: Params, num_steps: int, generator: torch.Generator) -> Params:
        return {"z": torch.randn(num_steps, generator=generator)}

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        spread = (TAU / oracle.outer["a"]).sqrt() * oracle.draws["z"]
        return {"inner": {"z": oracle.outer["lam"] + spread}}


def chains(
    method: Any, solver: InnerSolver[Any], steps: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the gradient in (lambda, a), and the standard error of each of some chains."""
    loop, data = InnerLoop(Toy(), solver, Cold()), Toy().data(steps)
    every = solver.draw(data.init, count * steps, seeded())["z"].reshape(count, steps)

    def one(draws: Tensor) -> tuple[Tensor, ...]:
        given = data._replace(draws={"z": draws})
        found = method.estimate(loop, OUTER, given, {"inner": loop.fresh(OUTER, given)})
        error = found.metrics.get("standard_error", torch.zeros(()))
        return found.loss, torch.stack([found.grad["lam"], found.grad["a"]]), error

    loss, grad, error = autodiff.vmap(one)(every)
    return loss, grad, error


def test_the_mean_over_independent_samples_is_that_of_the_closed_form() -> None:
    # Burn-in leaves out z_0, which is no sample.
    loss, grad, error = chains(Score(burn_in=0.01, batches=10), Independent(), 100, 2000)
    for found, expected in ((loss, J), (grad[:, 0], IN_LAM), (grad[:, 1], IN_A)):
        standard_error = float(found.std()) / len(found) ** 0.5
        assert standard_error < 0.02 * abs(expected) + 1e-4
        assert abs(float(found.mean()) - expected) < 4.5 * standard_error
    # What an estimate says of its own error is the spread of the estimates.
    spread = float(grad.var(0).sum())
    torch.testing.assert_close(float(error.square().mean()), spread, rtol=0.1, atol=0)


def test_the_path_of_a_chain_has_the_derivative_of_its_own_law_in_the_mean() -> None:
    steps, lr = 30, 0.2
    _, grad, _ = chains(Reverse(None, None), Langevin(lr, TAU), steps, 20_000)

    def of_the_law(outer: Params) -> Tensor:
        mean, variance = torch.tensor(LAM), torch.tensor(0.0)
        for _ in range(steps):
            mean = mean - lr * outer["a"] * (mean - outer["lam"])
            variance = (1 - lr * outer["a"]) ** 2 * variance + 2 * lr * TAU
        return 0.5 * ((mean - C).square() + variance)

    exact = autodiff.grad(of_the_law)(OUTER)
    error = grad.std(0) / len(grad) ** 0.5
    assert (grad.mean(0) - torch.stack([exact["lam"], exact["a"]])).abs().div(error).max() < 4.5
    # 0.6^30 = 2e-7: the law is at rest, with variance (tau / a) / (1 - lr a / 2).
    stretched = 1 / (1 - lr * A / 2)
    torch.testing.assert_close(float(exact["lam"]), IN_LAM, rtol=1e-6, atol=0)
    assert IN_A * stretched**2 < float(exact["a"]) < 0


def test_a_chain_of_langevin_steps_has_the_mean_that_its_gaussian_law_gives() -> None:
    steps, method = 40, Score(burn_in=0.5, batches=5)
    loop, data = InnerLoop(Toy(), Langevin(0.1, TAU), Cold()), Toy().data(steps)
    given = loop.drawn(OUTER, data, seeded())
    fresh = loop.fresh(OUTER, given)
    trial = Trial(loop, OUTER, given, {"inner": fresh}, fresh["inner"])
    reference = expected_score(method._first)(trial)
    _, grad, _ = chains(method, Langevin(0.1, TAU), steps, 20_000)
    error = grad.std(0) / len(grad) ** 0.5
    expected = torch.stack([reference["lam"], reference["a"]])
    assert (grad.mean(0) - expected).abs().div(error).max() < 4.5
    # Twenty samples that follow each other closely are few: the chain is far from its limit.
    assert float(reference["lam"]) < 0.9 * IN_LAM


def test_the_law_of_a_long_chain_of_small_steps_gives_the_closed_form() -> None:
    """What the estimate tends to: bias O(lr) of the steps, and O(1 / (lr K)) of the length."""

    def gap(lr: float, steps: int) -> float:
        loop, data = InnerLoop(Toy(), Langevin(lr, TAU), Cold()), Toy().data(steps)
        given = loop.drawn(OUTER, data, seeded())
        fresh = loop.fresh(OUTER, given)
        trial = Trial(loop, OUTER, given, {"inner": fresh}, fresh["inner"])
        return abs(float(expected_score(lambda number: number // 2)(trial)["lam"]) - IN_LAM)

    # (1 + rho) / (1 - rho) / n with rho = 1 - lr a, and lr a / 2, both relative.
    assert gap(0.4, 240) < 0.75 * IN_LAM
    assert gap(0.05, 240) < 0.16 * IN_LAM


def test_point_methods_do_not_see_the_width_of_the_law() -> None:
    loop, data = InnerLoop(Toy(), GradientDescent(0.2), Cold()), Toy().data(60)
    method = Implicit(Exact(0.0, None), warm_adjoint=False, curvature="hessian", clip=None)
    found = method.estimate(loop, OUTER, data, method.init(OUTER, loop.fresh(OUTER, data)))
    torch.testing.assert_close(float(found.grad["lam"]), IN_LAM, rtol=1e-6, atol=0)
    assert abs(float(found.grad["a"])) < 1e-6


class Cubic(Toy):
    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return super().inner_loss(inner, outer, batch) + inner["z"] ** 4


def test_no_law_is_claimed_where_a_loss_is_not_quadratic() -> None:
    loop, data = InnerLoop(Cubic(), Langevin(0.1, TAU), Cold()), Toy().data(4)
    given = loop.drawn(OUTER, data, seeded())
    fresh = loop.fresh(OUTER, given)
    with pytest.raises(NoSolution, match="where f and F are quadratic"):
        expected_score(lambda _: 2)(Trial(loop, OUTER, given, {"inner": fresh}, fresh["inner"]))


@pytest.mark.parametrize(
    "solver", [GradientDescent(0.1), Adam(0.1, 0.9, 0.99, 1e-8), Langevin(0.1, 0.0)], ids=str
)
def test_a_solver_that_does_not_sample_is_refused(solver: InnerSolver[Any]) -> None:
    loop, data = InnerLoop(Toy(), solver, Cold()), Toy().data(6)
    with pytest.raises(ValueError, match=r"samples at a temperature above 0.*solver=langevin"):
        Score(0.5, 10).check(loop, OUTER, data)


def test_one_sample_is_refused_and_two_are_served() -> None:
    for steps in (1, 2):
        loop = InnerLoop(Toy(), Langevin(0.1, TAU), Cold())
        data = loop.drawn(OUTER, Toy().data(steps), seeded())
        if steps == 1:
            with pytest.raises(ValueError, match="two samples at least, got inner_steps=1"):
                Score(0.5, 10).check(loop, OUTER, data)
            continue
        Score(0.5, 10).check(loop, OUTER, data)
        found = Score(0.5, 10).estimate(loop, OUTER, data, {"inner": loop.fresh(OUTER, data)})
        assert all(x.isfinite().all() for x in trees.leaves(tuple(found)))


def test_an_estimate_that_is_smaller_than_its_error_is_doubted() -> None:
    (said,) = Score(0.5, 10).doubts({"standard_error": 2.0, "grad_norm": 1.0}).values()
    assert "standard_error=2, grad_norm=1. Raise inner_steps" in said
    assert not Score(0.5, 10).doubts({"standard_error": 0.5, "grad_norm": 1.0})


@pytest.mark.parametrize(("burn_in", "batches"), [(1.0, 10), (-0.1, 10), (0.5, 1)])
def test_an_unusable_setting_is_refused(burn_in: float, batches: int) -> None:
    with pytest.raises(ValueError, match=r"Score needs (burn_in|batches)"):
        Score(burn_in, batches)

"""Inner solvers step as torch.optim does, and are differentiable through."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import Plane, Quadratic, central_difference
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.sets import Box
from bilevel_cli.core.solver import InnerSolver, Learned
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.aggregated import Aggregated
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.gd_decay import DecayingGradientDescent
from bilevel_cli.solvers.momentum import Momentum, NesterovMomentum
from bilevel_cli.solvers.nesterov import Nesterov
from bilevel_cli.solvers.projected import Projected
from bilevel_cli.solvers.weight_decay import DecoupledWeightDecay, WeightDecay
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned as LearnedStart

SGD, ADAM = torch.optim.SGD, torch.optim.Adam
PAIRS: dict[str, tuple[InnerSolver[Any], Callable[..., Any]]] = {
    "gd": (GradientDescent(0.1), lambda p: SGD(p, lr=0.1)),
    "momentum": (Momentum(0.1, 0.9), lambda p: SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        NesterovMomentum(0.1, 0.9),
        lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "weight decay": (
        WeightDecay(Momentum(0.1, 0.9), 0.05),
        lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    ),
    "adam": (Adam(0.1, 0.9, 0.99, 1e-8), lambda p: ADAM(p, lr=0.1, betas=(0.9, 0.99))),
    "adam with weight decay": (
        WeightDecay(Adam(0.1, 0.9, 0.99, 1e-8), 0.05),
        lambda p: ADAM(p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.05),
    ),
    "adamw": (
        DecoupledWeightDecay(Adam(0.1, 0.9, 0.99, 1e-8), 0.1, 0.05),
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.05),
    ),
}
SOLVERS = {name: solver for name, (solver, _) in PAIRS.items()} | {
    "accelerated": Nesterov(0.1),
    "projected": Projected(Nesterov(0.1), Box(-0.9, 0.9)),
    "aggregated": Aggregated(GradientDescent(0.1), 0.7, 0.3),
    "decaying": DecayingGradientDescent(PowerLaw(0.1, 0.5)),
}


class SharedAndUnused:
    """A loss of four parameters, of which one occurs twice and a part of another never."""

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        shared, partly = inner["shared"], inner["partly"]
        moved = shared @ batch["x"] * outer["lam"][0] + inner["shift"]
        first = inner["scale"] * torch.tanh(moved)
        return (shared @ first - partly[0]).square().sum() + outer["lam"][1] * partly[0] ** 4

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return sum((value - 0.3).square().sum() for value in inner.values()) + torch.zeros(())

    def data(self, steps: int) -> StepData:
        init = {"shared": 0.3 * torch.randn(3, 3), "partly": torch.tensor([0.5, 1.5, -0.5])}
        init |= {"shift": 0.1 * torch.randn(3), "scale": torch.tensor(0.8)}
        return StepData(init, {"x": torch.randn(steps, 3)}, {})


OUTER = {"lam": torch.tensor([0.7, 0.4], dtype=torch.float64)}


@pytest.mark.parametrize(("solver", "reference"), PAIRS.values(), ids=PAIRS)
def test_ten_steps_equal_those_of_torch_optim(solver: InnerSolver[Any], reference: Any) -> None:
    problem = SharedAndUnused()
    data = problem.data(10)
    loop = InnerLoop(problem, solver, Cold())
    state = loop.fresh(OUTER, data)
    params = {name: value.clone().requires_grad_() for name, value in data.init.items()}
    optimizer = reference(list(params.values()))
    for t in range(10):
        state = loop.step(state, OUTER, data, t)
        with torch.enable_grad():
            loss = problem.inner_loss(params, OUTER, data.inner_at(t))
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        for name, value in params.items():
            torch.testing.assert_close(state["inner"][name], value.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_hypergradient_through_five_steps_equals_finite_differences(
    solver: InnerSolver[Any],
) -> None:
    # Defect elsewhere: a momentum buffer that is detached at the first step.
    problem = SharedAndUnused()
    data = problem.data(5)
    loop = InnerLoop(problem, solver, LearnedStart())
    outer = OUTER | trees.prefixed("init.", data.init)

    def loss(outer: Params) -> Tensor:
        state = loop.run(loop.begin(outer, data, loop.fresh(outer, data)), outer, data)
        return problem.outer_loss(state["inner"], outer, data.outer)

    found = Reverse(None, None).estimate(loop, outer, data, {"inner": loop.fresh(outer, data)})
    expected = central_difference(loss, outer)
    for name, value in expected.items():
        torch.testing.assert_close(found.grad[name], value, rtol=1e-6, atol=1e-7)
        assert found.grad[name].isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_step_changes_nothing_it_was_given(solver: InnerSolver[Any]) -> None:
    problem = SharedAndUnused()
    data = problem.data(3)
    loop = InnerLoop(problem, solver, Cold())
    state = loop.run(loop.fresh(OUTER, data), OUTER, data, last=2)
    before = {name: value.clone() for name, value in state["inner"].items()}
    once, twice = (loop.step(state, OUTER, data, 2) for _ in range(2))
    for name, value in before.items():
        assert torch.equal(state["inner"][name], value)
        assert torch.equal(once["inner"][name], twice["inner"][name])


def test_nesterov_follows_the_sequence_of_fista() -> None:
    solver = Nesterov(0.1)
    state = solver.init({"z": torch.zeros(2)})
    for _ in range(30):
        state = solver.step(_Flat(), state)
    # The misprinted sequence, without the factor 4, stays at 1.333.
    torch.testing.assert_close(state["t"], torch.tensor(16.70), rtol=0, atol=5e-3)


def test_nesterov_reaches_the_optimal_rate_where_gradient_descent_does_not() -> None:
    problem = Quadratic()
    problem.hessian = torch.diag(torch.logspace(-3, 0, 6, dtype=torch.float64))
    data, outer = problem.data(200), problem.outer_init()
    best = torch.linalg.solve(problem.hessian, problem.coupling @ outer["lam"])

    def gap(solver: InnerSolver[Any]) -> Tensor:
        loop = InnerLoop(problem, solver, Cold())
        z = loop.run(loop.fresh(outer, data), outer, data)["inner"]["z"] - best
        return 0.5 * z @ problem.hessian @ z

    # Beck & Teboulle (2009), theorem 4.4: 2 L |z_0 - z*|^2 / (k + 1)^2, with L = 1.
    assert gap(Nesterov(1.0)) < 2 * best.square().sum() / 201**2
    assert gap(Nesterov(1.0)) < 0.1 * gap(GradientDescent(1.0))


def test_a_projected_solver_stays_in_its_box_and_stops_derivatives_where_it_clips() -> None:
    loop = InnerLoop(Plane(), Projected(GradientDescent(0.1), Box(-1.0, 1.2)), Cold())
    data, outer = Plane().data(20), {"x": Plane.x}
    state = loop.run(loop.fresh(outer, data), outer, data)
    assert state["inner"]["y"][1] == 1.2  # the free solution is (-0.2, 1.4)

    def second(outer: Params) -> Tensor:
        return loop.run(loop.fresh(outer, data), outer, data)["inner"]["y"][1]

    assert torch.equal(autodiff.grad(second)(outer)["x"], torch.zeros(2))


def test_aggregated_descends_the_blend_of_both_losses() -> None:
    loop = InnerLoop(Plane(), Aggregated(GradientDescent(0.1), 1.0, 0.5), Cold())
    data, outer = Plane().data(300), {"x": Plane.x}
    found = loop.run(loop.fresh(outer, data), outer, data)["inner"]["y"]
    # (A + I / 2) y = B x + c / 2
    expected = torch.linalg.solve(Plane.A + 0.5 * torch.eye(2), Plane.B @ Plane.x + 0.5 * Plane.c)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "make",
    [GradientDescent, lambda lr: Momentum(lr, 0.9), Nesterov, lambda lr: Adam(lr, 0.9, 0.99, 1e-8)],
)
def test_a_learned_step_size_has_the_derivative_of_finite_differences(make: Any) -> None:
    problem, solver = Plane(), make(Learned("log_lr", initial=0.05))
    loop = InnerLoop(problem, WeightDecay(solver, 0.01), Cold())
    assert loop.outer_init(problem.data(4), {}) == {"log_lr": torch.tensor(0.05).log()}
    # Not from (0, 1): an entry of the gradient is zero there, where Adam's derivative is lr / eps.
    data, outer = problem.data(4, (0.3, 1.0)), {"x": Plane.x, "log_lr": torch.tensor(0.05).log()}

    def loss(outer: Params) -> Tensor:
        return problem.outer_loss(
            loop.run(loop.fresh(outer, data), outer, data)["inner"], outer, {}
        )

    found = Reverse(None, None).estimate(loop, outer, data, {"inner": loop.fresh(outer, data)})
    for name, value in central_difference(loss, outer).items():
        torch.testing.assert_close(found.grad[name], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDescent(0.0), "GradientDescent needs a finite step size lr > 0, got lr=0"),
        (lambda: GradientDescent(float("nan")), "got lr=nan"),
        (lambda: Momentum(0.1, 1.0), r"Momentum needs momentum in \[0, 1\), got momentum=1.0"),
        (lambda: Nesterov(float("inf")), "Nesterov needs a finite step size"),
        (lambda: Adam(0.1, 1.0, 0.9, 1e-8), r"Adam needs beta1 in \[0, 1\), got beta1=1.0"),
        (lambda: Adam(0.1, 0.9, 0.9, 0.0), "Adam needs a finite eps > 0"),
        (lambda: Box(1.0, 1.0), "Box needs low < high, got low=1.0, high=1.0"),
        (lambda: WeightDecay(Nesterov(0.1), -1.0), "WeightDecay needs a finite weight_decay >= 0"),
        (lambda: Learned("log_lr", -1.0), "A learned setting needs initial > 0, got log_lr"),
    ],
)
def test_an_unusable_setting_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class _Flat:
    outer: Params = {}  # noqa: RUF012 - never written to
    draws: Params = {}  # noqa: RUF012 - likewise

    def inner_grad(self, inner: Params) -> Params:
        return trees.zeros_like(inner)

    def outer_grad(self, inner: Params) -> Params:
        return trees.zeros_like(inner)

"""The declared cost of a method is what a problem counts that sees every derivative taken of it."""

from collections import Counter
from typing import Any

import pytest
import torch
from configs import composed, options
from hydra.utils import instantiate
from problems import Plane, Quadratic
from torch import Tensor
from torch.autograd import Function

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Hypergradient, cost_of
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned

GD = GradientDescent(0.1)
COUNTS: Counter[str] = Counter()


def mapped_size(x: Tensor) -> int:
    """How many tensors a mapping holds in `x`: 1 outside of it."""
    return torch.func.debug_unwrap(x).numel() // x.numel()


class Passed(Function):
    """The identity. Its gradient passes through `Slope`, in both engines of autodiff."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return Slope.apply(*grads)  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].clone()

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return x.clone(), in_dims[0]


class Slope(Passed):
    """The identity on a gradient: differentiated once for each second-order product."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        COUNTS["hvps"] += mapped_size(grads[0])
        return grads[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return Tangents.apply(*tangents)  # type: ignore[no-untyped-call]


class Tangents(Passed):
    """The identity on the tangents of a gradient: forward mode takes them all at once."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        COUNTS["hvps"] += 1
        return x.clone()

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        COUNTS["hvps"] += info.batch_size
        return x.clone(), in_dims[0]


class Counted:
    """A problem with one tensor of inner parameters that counts derivatives of its inner loss."""

    def __init__(self, problem: Any) -> None:
        self.problem = problem

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return self.problem.init_inner(outer, data)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        # Nobody asks for the value alone. A mapped loss is one for each of what it is mapped over,
        # even where the inner parameters are still the same for all.
        COUNTS["inner_grads"] += max(map(mapped_size, (*inner.values(), *outer.values())))
        ((name, value),) = inner.items()
        passed = Passed.apply(value)  # type: ignore[no-untyped-call]
        return self.problem.inner_loss({name: passed}, outer, batch)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.problem.outer_loss(inner, outer, batch)


def costs(
    method: Hypergradient[Any],
    steps: int,
    solver: InnerSolver[Any] = GD,
    start: Start | None = None,
) -> tuple[Cost, Cost]:
    """What an estimate on the quadratic was counted to take, and what the method declares."""
    problem = Quadratic()
    data, loop = problem.data(steps), InnerLoop(Counted(problem), solver, start or Cold())
    outer = problem.outer_init() | loop.outer_init(data, {})
    return counted_and_declared(method, loop, outer, data)


def counted_and_declared(
    method: Hypergradient[Any], loop: InnerLoop, outer: Params, data: StepData
) -> tuple[Cost, Cost]:
    carry = method.init(outer, loop.fresh(outer, data))
    data = data._replace(noise=method.draw(outer, torch.Generator().manual_seed(0)))
    data = loop.drawn(outer, data, torch.Generator().manual_seed(0))
    COUNTS.clear()
    found = method.estimate(loop, outer, data, carry)
    counted = Cost(COUNTS["inner_grads"], COUNTS["hvps"])
    return counted, cost_of(method, loop, data.num_steps, outer, data.init, found.metrics)


@pytest.mark.parametrize("option", options("method"))
def test_every_method_takes_what_it_declares(option: str) -> None:
    # Twelve steps: more than the window of method=truncated and the segment of checkpointed.
    config = composed("task=quadratic", f"method={option}")
    counted, declared = costs(instantiate(config.method), 12, instantiate(config.solver))
    assert counted == declared


@pytest.mark.gpu
@pytest.mark.parametrize("option", options("method"))
def test_a_method_reports_the_same_columns_on_a_gpu_and_counts_what_it_takes_there(
    option: str,
) -> None:
    config = composed("task=quadratic", f"method={option}")
    method, solver = instantiate(config.method), instantiate(config.solver)
    reported = []
    for place in ("cpu", "cuda"):
        problem = Quadratic()
        for name in ("hessian", "coupling", "target"):
            setattr(problem, name, getattr(problem, name).to(place))
        outer, parts = trees.map_leaves(
            lambda x, place=place: x.to(place), (problem.outer_init(), tuple(problem.data(6)))
        )
        noise = method.draw(outer, torch.Generator(place).manual_seed(0))
        loop = InnerLoop(Counted(problem), solver, Cold())
        data = StepData(*parts)._replace(noise=noise)
        data = loop.drawn(outer, data, torch.Generator(place).manual_seed(0))
        carry = method.begin(loop, outer, data, loop.fresh(outer, data))
        COUNTS.clear()
        metrics = method.estimate(loop, outer, data, carry).metrics
        counted = Cost(COUNTS["inner_grads"], COUNTS["hvps"])
        assert all(value.device.type == place for value in metrics.values())
        assert tuple(map(int, method.cost(6, outer, data.init, metrics))) == counted
        reported.append(list(metrics))
    assert reported[0] == reported[1]


@pytest.mark.parametrize("start", [Cold(), Learned()])
@pytest.mark.parametrize(
    ("window", "segment", "expected"),
    [
        (None, None, Cost(7, 7)),
        (3, None, Cost(7, 3)),
        (20, None, Cost(7, 7)),
        (None, 20, Cost(7, 7)),
        (None, 1, Cost(7 + 6, 7)),  # all steps but the last run again
        (None, 3, Cost(7 + 4, 7)),  # 1 + 3 + 3, of which 4 run again
        (None, 4, Cost(7 + 3, 7)),
        (5, 2, Cost(7 + 3, 5)),  # 2 before the window, then 1 + 2 + 2, of which 3 run again
        (1, 1, Cost(7, 1)),
    ],
)
def test_reverse_runs_every_segment_but_the_last_again(
    window: int | None, segment: int | None, expected: Cost, start: Start
) -> None:
    assert costs(Reverse(window, segment), 7, start=start) == (expected, expected)


@pytest.mark.parametrize(("y", "step"), [((3.0, -3.0), 1), ((-1.0, 1.0), 3), ((0.0, 1.0), 5)])
def test_iaptt_goes_back_to_the_pessimistic_step_and_no_further(
    y: tuple[float, float], step: int
) -> None:
    plane, expected = Plane(), Cost(5, step)
    loop = InnerLoop(Counted(plane), GD, Cold())
    found = counted_and_declared(Iaptt(), loop, {"x": Plane.x}, plane.data(5, y))
    assert found == (expected, expected)


@pytest.mark.parametrize("y", [(3.0, -3.0), (-1.0, 1.0)])
def test_iaptt_goes_back_through_all_steps_where_it_may_not_ask_which(
    y: tuple[float, float],
) -> None:
    plane, method = Plane(), Iaptt()
    loop, data = InnerLoop(Counted(plane), GD, Cold()), plane.data(5, y)
    outer = {"x": Plane.x[None]}
    carry = method.init({"x": Plane.x}, loop.fresh({"x": Plane.x}, data))
    COUNTS.clear()
    found = autodiff.vmap(lambda x: tuple(method.estimate(loop, x, data, carry)))(outer)
    assert COUNTS == {"inner_grads": 5, "hvps": 5}
    metrics = {name: value[0] for name, value in found[3].items()}
    alone = method.estimate(loop, {"x": Plane.x}, data, carry).metrics
    assert list(metrics) == list(alone)
    assert (int(metrics["inner_grads"]), int(metrics["hvps"])) == (5, 5)
    assert int(metrics["pessimistic_step"]) < 5
    assert method.cost(5, {"x": Plane.x}, data.init, metrics) == Cost(5, 5)


@pytest.mark.parametrize(
    ("solver", "products"),
    [
        (Identity(), 0),
        (Neumann(4, 0.1), 4),
        (ConjugateGradient(4, 0.0), 5),  # one for the first residual
        (ConjugateGradient(4, 0.9), 5),  # converged before, which saves nothing
        (Exact(0.1, None), 6),  # a column of the Hessian each
        (Exact(0.0, 1e-9), 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("warm_adjoint", [True, False])
def test_implicit_takes_a_gradient_a_residual_and_a_cross_product_besides_the_solve(
    solver: LinearSolver, products: int, warm_adjoint: bool
) -> None:
    expected = Cost(3 + 1, products + 2)
    assert costs(Implicit(solver, warm_adjoint, "hessian", None), 3) == (expected, expected)


class CountedOutputs(Counted):
    """A counted problem that is its own output, through which every product with h'' passes."""

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        ((_, value),) = inner.items()
        return Passed.apply(value)  # type: ignore[no-untyped-call]

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        ((name, _),) = inner.items()
        return self.problem.inner_loss({name: outputs}, outer, batch)


@pytest.mark.parametrize("solver", [ConjugateGradient(4, 0.0), Exact(0.1, None)], ids=str)
def test_gauss_newton_products_are_counted_as_those_with_the_hessian(solver: LinearSolver) -> None:
    problem, method = Quadratic(), Implicit(solver, False, "gauss_newton", None)
    data, loop = problem.data(3), InnerLoop(CountedOutputs(problem), GD, Cold())
    counted, declared = counted_and_declared(method, loop, problem.outer_init(), data)
    assert counted == declared == Cost(3 + 1, solver.products(6) + 2)


def test_a_mapping_takes_what_each_of_its_estimates_takes() -> None:
    problem, method = Quadratic(), Reverse(window=None, segment=3)
    data, loop = problem.data(7), InnerLoop(Counted(problem), GD, Cold())

    def grad(outer: Params) -> Params:
        return method.estimate(loop, outer, data, {"inner": loop.fresh(outer, data)}).grad

    COUNTS.clear()
    autodiff.vmap(grad)({"lam": torch.randn(5, 3)})
    assert (COUNTS["inner_grads"], COUNTS["hvps"]) == (5 * (7 + 4), 5 * 7)


def test_forward_takes_a_product_for_each_step_and_outer_parameter() -> None:
    assert costs(Forward(), 4) == 2 * (Cost(4, 4 * 3),)
    assert costs(Forward(), 4, start=Learned()) == 2 * (Cost(4, 4 * (3 + 6)),)


def test_without_a_method_there_are_inner_gradients_alone() -> None:
    assert costs(NoHypergradient(), 7) == (Cost(7, 0), Cost(7, 0))


@pytest.mark.parametrize("option", options("solver"))
def test_every_solver_takes_as_many_inner_gradients_in_a_step_as_it_says(option: str) -> None:
    solver = instantiate(composed("task=quadratic", f"solver={option}").solver)
    each = solver.gradients
    assert costs(Reverse(None, None), 4, solver) == 2 * (Cost(4 * each, 4 * each),)
    implicit = Implicit(Neumann(3, 0.1), warm_adjoint=False, curvature="hessian", clip=None)
    assert costs(implicit, 4, solver) == 2 * (Cost(4 * each + 1, 3 + 2),)

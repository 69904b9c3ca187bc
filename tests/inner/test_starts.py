"""Start policies: where an inner solve begins, and what flows through its beginning."""

from typing import Any

import pytest
import torch
from configs import composed, options
from hydra.utils import instantiate
from problems import Plane, Quadratic, central_difference, estimate
from torch import Tensor
from torch.utils._pytree import tree_map

from bilevel_cli.core.episodes import outer_step
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.solver import Learned as LearnedSetting
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.partial import Partial
from bilevel_cli.starts.pool import Pool
from bilevel_cli.starts.warm import Warm

FULL = Reverse(window=None, segment=None)
MOMENTUM = Momentum(0.1, 0.5)
OUTER = {"x": Plane.x, "theta": torch.tensor([0.3, -0.8], dtype=torch.float64)}


class LearnsItsStart(Plane):
    """The plane, with a fresh start that is an outer parameter of the problem itself."""

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return {"y": outer["theta"]}


def previous(*y: float) -> SolverState:
    """A state that a solver with momentum has left behind."""
    state: Any = {"inner": {"y": torch.tensor(y)}, "velocity": {"y": torch.tensor([5.0, -3.0])}}
    return state


def begun(start: Start, outer: Params = OUTER) -> Any:
    loop = InnerLoop(LearnsItsStart(), MOMENTUM, start)
    return loop.begin(outer, Plane().data(1), previous(1.0, 2.0))


def estimated(start: Start, state: SolverState) -> Estimate:
    problem = LearnsItsStart()
    carry: Carry = {"inner": state}
    return FULL.estimate(InnerLoop(problem, MOMENTUM, start), OUTER, problem.data(4), carry)


def slope_at(y: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """dF(y_4)/dy_0 and dF/dx of four steps from (y, velocity), by finite differences."""

    def loss(at: Params) -> Tensor:
        state: Any = {"inner": {"y": at["y"]}, "velocity": {"y": velocity}}
        loop = InnerLoop(Plane(), MOMENTUM, Cold())
        return Plane().outer_loss(loop.run(state, at, Plane().data(4))["inner"], at, {})

    found = central_difference(loss, {"x": Plane.x, "y": y})
    return found["y"], found["x"]


def assert_close(found: Tensor, expected: Tensor) -> None:
    # The loss is quadratic, so central differences of step 1e-5 err by rounding alone.
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_cold_begins_afresh_and_its_gradient_reaches_a_start_the_problem_learns() -> None:
    state = begun(Cold())
    assert torch.equal(state["inner"]["y"], OUTER["theta"])
    assert torch.equal(state["velocity"]["y"], torch.zeros(2))
    found = estimated(Cold(), previous(1.0, 2.0))
    slope, direct = slope_at(OUTER["theta"], torch.zeros(2))
    assert_close(found.grad["theta"], slope)
    assert_close(found.grad["x"], direct)


def test_warm_goes_on_with_the_memory_of_the_solver() -> None:
    problem, outer = Plane(), {"x": Plane.x}

    def last(start: Start, steps: int, state: SolverState) -> SolverState:
        loop = InnerLoop(problem, MOMENTUM, start)
        return loop.run(loop.begin(outer, problem.data(steps), state), outer, problem.data(steps))

    fresh = MOMENTUM.init(problem.data(1).init)
    once = last(Cold(), 9, fresh)
    interrupted = last(Warm(), 5, last(Cold(), 4, fresh))
    torch.testing.assert_close(interrupted, once, rtol=0, atol=0)


def test_warm_takes_what_it_continues_for_a_constant() -> None:
    found = estimated(Warm(), previous(1.0, 2.0))
    assert torch.equal(found.grad["theta"], torch.zeros(2))
    _, direct = slope_at(torch.tensor([1.0, 2.0]), torch.tensor([5.0, -3.0]))
    assert_close(found.grad["x"], direct)


def test_no_gradient_flows_into_an_earlier_outer_step() -> None:
    # z_2K(lambda) has a larger derivative in lambda than its last K steps alone.
    problem = Quadratic()
    outer, data = problem.outer_init(), problem.data(5)
    loop = InnerLoop(problem, GradientDescent(0.1), Warm())
    first = FULL.estimate(loop, outer, data, {"inner": loop.fresh(outer, data)})
    second = FULL.estimate(loop, outer, data, first.carry)
    whole = estimate(FULL, problem, problem.data(10), outer)
    truncated = estimate(Reverse(window=5, segment=None), problem, problem.data(10), outer)
    torch.testing.assert_close(second.loss, whole.loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(second.grad, truncated.grad, rtol=1e-12, atol=1e-14)
    assert (second.grad["lam"] - whole.grad["lam"]).norm() > 0.1 * whole.grad["lam"].norm()


@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_partial_begins_between_the_last_iterate_and_a_fresh_start(keep: float) -> None:
    last, zero = torch.tensor([1.0, 2.0]), torch.zeros(2)
    between = keep * last + (1 - keep) * OUTER["theta"]
    state = begun(Partial(keep))
    assert torch.equal(state["inner"]["y"], between)
    assert torch.equal(state["velocity"]["y"], zero)  # begun anew, also where keep is 1
    found = estimated(Partial(keep), previous(1.0, 2.0))
    slope, direct = slope_at(between, zero)
    assert_close(found.grad["theta"], (1 - keep) * slope)
    assert_close(found.grad["x"], direct)


def test_partial_that_keeps_nothing_is_cold() -> None:
    found, expected = (estimated(start, previous(1.0, 2.0)) for start in (Partial(0.0), Cold()))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_learned_begins_at_outer_parameters_with_a_solver_begun_anew() -> None:
    problem, start = Plane(), torch.tensor([-1.0, 1.0])
    loop = InnerLoop(problem, MOMENTUM, Learned())
    outer = {"x": Plane.x, "init.y": start, "init.of another model": torch.ones(3)}
    state: Any = loop.begin(outer, problem.data(4), previous(1.0, 2.0))
    assert list(state["inner"]) == ["y"]
    assert torch.equal(state["inner"]["y"], start)
    assert torch.equal(state["velocity"]["y"], torch.zeros(2))
    found = FULL.estimate(loop, outer, problem.data(4), {"inner": previous(1.0, 2.0)})
    slope, direct = slope_at(start, torch.zeros(2))
    assert_close(found.grad["init.y"], slope)
    assert_close(found.grad["x"], direct)
    assert torch.equal(found.grad["init.of another model"], torch.zeros(3))


def test_learned_contributes_the_start_of_the_task_and_nothing_where_the_task_learns_it() -> None:
    data = Plane().data(4, (0.5, -2.0))
    found = Learned().outer_init(data)
    assert list(found) == ["init.y"]
    assert torch.equal(found["init.y"], torch.tensor([0.5, -2.0]))
    assert Learned().outer_init(data._replace(init={})) == {}
    for start in (Cold(), Warm(), Partial(0.5)):
        assert start.outer_init(data) == {}


def test_a_loop_learns_what_its_start_and_its_solver_learn() -> None:
    data = Plane().data(4)
    solver = GradientDescent(LearnedSetting("log_lr", initial=0.1))
    found = InnerLoop(Plane(), solver, Learned()).outer_init(data, {})
    assert set(found) == {"init.y", "log_lr"}
    assert set(InnerLoop(Plane(), solver, Cold()).outer_init(data, {})) == {"log_lr"}


def test_learned_begins_at_the_entries_that_a_task_keeps_itself() -> None:
    class Maml(Plane):
        def init_inner(self, outer: Params, data: StepData) -> Params:
            return {"y": outer["init.y"]}

    data = Plane().data(3)._replace(init={})
    outer = {"x": Plane.x, "init.y": torch.tensor([0.3, -0.8])}
    cold, learned = (estimate(FULL, Maml(), data, outer, start) for start in (Cold(), Learned()))
    torch.testing.assert_close(learned, cold, rtol=0, atol=0)
    assert cold.grad["init.y"].norm() > 0


@pytest.mark.parametrize("option", options("start"))
def test_a_start_says_whether_it_remembers(option: str) -> None:
    start = instantiate(composed(f"start={option}").start)
    loop = InnerLoop(Plane(), MOMENTUM, start)
    outer = {"x": Plane.x, "init.y": torch.tensor([-1.0, 1.0])}

    def begun_after(*y: float) -> Tensor:
        handed = state = previous(*y)
        for _ in range(10):  # the members of a pool, each of which hands on to itself
            handed = start.remember(handed, state)
        return loop.begin(outer, Plane().data(1), handed)["inner"]["y"]

    one, other = begun_after(1.0, 2.0), begun_after(3.0, 4.0)
    assert torch.equal(one, other) != start.remembers


@pytest.mark.parametrize("option", options("start"))
def test_a_start_changes_nothing_it_was_given(option: str) -> None:
    start = instantiate(composed(f"start={option}").start)
    outer = {"x": Plane.x, "init.y": torch.tensor([-1.0, 1.0])}
    given = [MOMENTUM.init({"y": torch.zeros(2)}), outer, previous(1.0, 2.0)]
    copies = [tree_map(Tensor.clone, tree) for tree in given]
    start(*given)
    torch.testing.assert_close(given, copies, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan")])
def test_partial_refuses_a_weight_that_is_none(keep: float) -> None:
    message = rf"Partial needs keep in \[0, 1\], got keep={keep}. Set start.keep, e.g. 0.5."
    with pytest.raises(ValueError, match=message):
        Partial(keep)


def visits(size: int, renew_every: int, steps: int) -> list[float]:
    """The start of each outer step, where step n is handed the fresh start n and adds 0.5."""
    start = Pool(size, renew_every)
    previous: SolverState = {"inner": {"y": torch.zeros(1)}}
    starts = []
    for n in range(steps):
        state = start({"inner": {"y": torch.full((1,), float(n))}}, {}, previous)
        starts.append(float(state["inner"]["y"]))
        finished: SolverState = {"inner": {"y": state["inner"]["y"] + 0.5}}
        previous = start.remember(previous, finished)
    return starts


def test_a_pool_of_one_continues_until_it_is_renewed() -> None:
    assert visits(1, 3, 7) == [0.0, 0.5, 1.0, 3.0, 3.5, 4.0, 6.0]
    assert visits(1, 1, 3) == [0.0, 1.0, 2.0]  # cold


def test_members_of_a_pool_take_turns_and_are_renewed_at_different_times() -> None:
    # Two members, each begun at its first visit; a visit later the second is renewed, then every
    # other visit.
    assert visits(2, 2, 8) == [0.0, 1.0, 0.5, 3.0, 4.0, 3.5, 4.5, 7.0]


def test_a_pool_keeps_the_memory_of_the_solver_and_one_structure() -> None:
    loop, data = InnerLoop(LearnsItsStart(), MOMENTUM, Pool(3, 4)), Plane().data(2)
    step = outer_step(FULL, loop)
    carry: Any = {"inner": loop.fresh(OUTER, data)}
    carries = [carry := step(OUTER, data, carry).carry for _ in range(4)]
    pool = carries[-1]["inner"]["pool"]
    assert pool["velocity"]["y"].shape == (3, 2)
    # The fourth step continued the first member: four inner steps of momentum in all.
    expected = loop.run(carries[0]["inner"], OUTER, data)
    torch.testing.assert_close(pool["inner"]["y"][0], expected["inner"]["y"])
    torch.testing.assert_close(pool["velocity"]["y"][0], expected["velocity"]["y"])  # type: ignore[typeddict-item]


def test_a_pool_keeps_the_counters_of_a_solver() -> None:
    loop, data = InnerLoop(Plane(), Adam(0.1, 0.9, 0.999, 1e-8), Pool(2, 3)), Plane().data(2)
    step, outer = outer_step(FULL, loop), {"x": Plane.x}
    carry: Any = {"inner": loop.fresh(outer, data)}
    counts = []
    for _ in range(7):
        carry = step(outer, data, carry).carry
        counts.append(int(carry["inner"]["count"]))
    # Two inner steps at each visit; the second member is renewed at its third, the first after.
    assert counts == [2, 2, 4, 4, 6, 2, 2]

"""Episodes by threads, by mapping and one after the other are the same inner problems."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from configs import composed, one_in, options
from hydra.utils import instantiate
from problems import Plane, Quadratic, Several
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from bilevel_cli.core import autodiff, episodes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import a_sampler
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.langevin import Langevin
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm

Tree = Any
STEPS = 12  # more than the window of method=truncated and the segment of method=checkpointed


def stack(trees: list[Tree]) -> Tree:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def take(tree: Tree, episode: int) -> Tree:
    return tree_map(lambda x: x[episode], tree)


def one(data: StepData, episode: int) -> StepData:
    init, inner, outer = take(tuple(data)[:3], episode)
    return StepData(init, inner, outer, data.noise, draws=take(data.draws, episode))


def inside_a_mapping(step: episodes.OuterStep) -> episodes.OuterStep:
    """`step` as other devices than the CPU take it: mapped over episodes."""

    def mapped(*args: Tree) -> Estimate:
        return take(autodiff.vmap(lambda _: step(*args))(torch.zeros(1)), 0)

    return mapped


def one_after_the_other(step: episodes.OuterStep) -> episodes.OuterStep:
    def looped(outer: Params, data: StepData, carry: Carry) -> Estimate:
        found = stack([step(outer, one(data, e), take(carry, e)) for e in range(3)])
        grad = {name: value.mean(0) for name, value in found.grad.items()}
        metrics = {name: value.double().mean(0) for name, value in found.metrics.items()}
        return Estimate(grad, found.loss.mean(), found.carry, metrics)

    return looped


@pytest.mark.parametrize(
    "option", [one_in(2, number, name) for number, name in enumerate(options("method"))]
)
def test_threads_and_mapping_equal_a_loop(option: str, two_threads: None) -> None:
    problem, outer = Several(), {"lam": torch.tensor([1.0, -0.5, 2.0])}
    method = instantiate(composed("task=quadratic", f"method={option}").method)
    # A solver and a start with memory, so that the second step sees the carry of the first.
    solver = Langevin(0.05, 0.3) if a_sampler in method.requires else Momentum(0.05, 0.5)
    loop, source = InnerLoop(problem, solver, Warm()), torch.Generator().manual_seed(0)
    noise = method.draw(outer, source)
    first, second = (
        episodes.drawn(loop, outer, problem.data(STEPS)._replace(noise=noise), source)
        for _ in range(2)
    )
    state = stack([loop.fresh(outer, one(first, e)) for e in range(3)])
    begun = episodes.begin(method, loop, outer, first, state)

    columns: list[list[str]] = []

    def two_steps(step: episodes.OuterStep) -> tuple[Estimate, Estimate]:
        former = step(outer, first, begun)
        latter = step(outer, second, former.carry)
        columns.append(list(former.metrics))
        for found in (former, latter):
            assert list(found.metrics) == columns[0]  # the same metrics, however it is taken
            found.metrics.pop("inner_grads", None)  # mapping never runs a step again
            found.metrics.pop("hvps", None)  # nor asks which step is pessimistic: all count
        return former, latter

    def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
        return method.estimate(loop, outer, data, carry)

    expected = two_steps(one_after_the_other(estimate))
    for step in (
        episodes.outer_step(method, loop),
        inside_a_mapping(episodes.over_episodes(estimate)),
    ):
        # The same sums in another order.
        torch.testing.assert_close(two_steps(step), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", [lambda step: step, inside_a_mapping], ids=["threads", "mapped"])
def test_every_episode_takes_its_own_pessimistic_step(
    way: Callable[[episodes.OuterStep], episodes.OuterStep],
) -> None:
    plane, outer = Plane(), {"x": Plane.x}
    starts = [plane.data(5, start) for start in ((-1.0, 1.0), (0.0, 1.0))]
    data = StepData(*stack([tuple(start)[:3] for start in starts]))
    loop = InnerLoop(plane, GradientDescent(0.1), Cold())

    def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
        return Iaptt().estimate(loop, outer, data, carry)

    carry: Carry = {"inner": {"inner": data.init}}
    found = way(episodes.over_episodes(estimate))(outer, data, carry)
    # From the exact answers of test_cases: steps 3 and 5, and their gradients.
    assert found.metrics["pessimistic_step"] == (3 + 5) / 2
    gradients = torch.tensor([[1.18765, 1.5648], [1.4229143125, 1.710774625]])
    torch.testing.assert_close(found.grad["x"], gradients.mean(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("way", [lambda step: step, inside_a_mapping], ids=["threads", "mapped"])
def test_noise_is_shared_by_all_episodes(
    way: Callable[[episodes.OuterStep], episodes.OuterStep],
) -> None:
    # Two random numbers for three episodes: noise has no dimension of episodes.
    probe = torch.tensor([1.0, 10.0])

    def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
        weighted = data.noise["probe"] * data.inner["scale"].sum()
        return Estimate({"lam": weighted}, weighted.sum(), carry, {})

    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    data = StepData({}, {"scale": scale}, {}, {"probe": probe})
    found = way(episodes.over_episodes(estimate))({}, data, {"inner": {"inner": {}}})
    assert torch.equal(found.grad["lam"], probe * 8)  # mean of 3, 7 and 14


def test_a_mapping_in_chunks_holds_as_many_episodes_at_once() -> None:
    problem, outer = Several(), Several().outer_init()
    data, loop = problem.data(4), InnerLoop(problem, GradientDescent(0.1), Cold())
    sizes: list[int] = []

    class Recording(Reverse):
        def estimate(
            self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry
        ) -> Estimate:
            z = data.init["z"]
            sizes.append(torch.func.debug_unwrap(z).numel() // z.numel())
            return super().estimate(loop, outer, data, carry)

    method = Recording(None, None)
    carry: Carry = {"inner": {"inner": data.init}}
    in_chunks, whole = (
        inside_a_mapping(episodes.outer_step(method, loop, chunk_size))(outer, data, carry)
        for chunk_size in (2, None)
    )
    assert sizes == [2, 1, 3]
    torch.testing.assert_close(in_chunks, whole, rtol=1e-12, atol=1e-14)


def test_the_first_episode_is_data_without_the_dimension_of_episodes() -> None:
    data = Several().data(4)._replace(noise={"probe": torch.randn(3, 2)})
    found = episodes.first(data)
    expected = StepData(
        {"z": data.init["z"][0]},
        {"scale": data.inner["scale"][0]},
        {"target": data.outer["target"][0]},
        data.noise,
    )
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)
    assert found.num_steps == 4


class Counting(Reverse):
    """A method with a memory that has no dimension of its own."""

    def init(self, outer: Params, state: SolverState) -> Any:
        return {"inner": state, "count": torch.zeros(())}


def test_a_memory_is_begun_for_each_episode_where_there_are_some() -> None:
    def count(problem: Quadratic, z: Tensor) -> Tensor:
        loop = InnerLoop(problem, GradientDescent(0.1), Cold())
        method, outer = Counting(None, None), problem.outer_init()
        carry: Tree = episodes.begin(method, loop, outer, problem.data(2), {"inner": {"z": z}})
        assert torch.equal(carry["inner"]["inner"]["z"], z)
        return carry["count"]

    assert torch.equal(count(Several(), torch.randn(3, 6)), torch.zeros(3))
    assert torch.equal(count(Quadratic(), torch.randn(6)), torch.zeros(()))


def test_a_problem_without_episodes_is_estimated_as_it_is() -> None:
    problem = Quadratic()
    outer, data = problem.outer_init(), problem.data(5)
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    carry: Carry = {"inner": loop.fresh(outer, data)}
    found = episodes.outer_step(Reverse(None, None), loop)(outer, data, carry)
    expected = Reverse(None, None).estimate(loop, outer, data, carry)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_episodes_on_a_cpu_run_at_once_on_one_core_each(two_threads: None) -> None:
    meeting = threading.Barrier(2, timeout=600)

    def episode(data: StepData) -> Tensor:
        meeting.wait()  # breaks unless another episode comes while this one waits
        return data.inner["x"].sum() * torch.get_num_threads()

    x = torch.arange(8.0).reshape(4, 2)
    found = episodes.each(episode)(StepData({}, {"x": x}, {}))
    assert torch.equal(found, x.sum(1))


def cores() -> list[int]:
    """The cores that torch takes here, and in a thread to come."""
    found = [torch.get_num_threads()]
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found


def test_episodes_give_the_cores_back(two_threads: None) -> None:
    data = StepData({}, {"x": torch.zeros(3, 2)}, {})
    episodes.each(lambda data: data.inner["x"].sum())(data)
    assert cores() == [2, 2]


def test_an_episode_that_raises_is_heard_and_the_cores_come_back(two_threads: None) -> None:
    def episode(data: StepData) -> Tensor:
        if data.inner["x"].sum() == 1:
            raise KeyError("the second episode")
        return data.inner["x"].sum()

    data = StepData({}, {"x": torch.eye(3)[:, :1].roll(1, 0)}, {})
    with pytest.raises(KeyError, match="the second episode"):
        episodes.each(episode)(data)
    assert cores() == [2, 2]


def test_derivatives_flow_through_episodes_and_end_where_nobody_takes_them() -> None:
    problem, outer = Several(), {"lam": torch.tensor([1.0, -0.5, 2.0])}
    data = problem.data(4)
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())

    def loss(outer: Params, data: StepData) -> Tensor:
        state = loop.run(loop.fresh(outer, data), outer, data)
        return problem.outer_loss(state["inner"], outer, data.outer)

    enabled: list[bool] = []

    def watched(outer: Params, data: StepData) -> Tensor:
        enabled.append(torch.is_grad_enabled())  # a new thread begins with True
        return loss(outer, data)

    def mean_loss(outer: Params) -> Tensor:
        return episodes.each(lambda data: watched(outer, data))(data).mean()

    single = stack([autodiff.grad(loss)(outer, one(data, e)) for e in range(3)])
    found, value = autodiff.grad_and_value(mean_loss)(outer)
    torch.testing.assert_close(found["lam"], single["lam"].mean(0), rtol=1e-12, atol=1e-14)
    assert not any(tensor.requires_grad for tensor in tree_leaves((found, value)))
    torch.testing.assert_close(mean_loss(outer), value, rtol=1e-12, atol=0)
    assert enabled == 3 * [True] + 3 * [False]

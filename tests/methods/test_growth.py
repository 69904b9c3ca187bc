"""What methods say that their memory grows with, held to the bytes that their tensors take."""

import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import class_of, composed, crossed, one_in, options
from hydra.utils import instantiate
from metering import Metered
from omegaconf import OmegaConf
from torch import Tensor

from bilevel_cli.core import autodiff, growth
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.machine import memory
from bilevel_cli.methods.parts import graphs
from bilevel_cli.runs import foresight
from bilevel_cli.runs.failures import smaller

BASE = {"rows": 60, "inner": 24, "outer": 16, "steps": 4}
FACTOR = 8


class Regression:
    """f = weighted squared errors of `rows` + decay, F = minus the errors, in all sizes apart.

    Along the inner loop F rises, so that IAPTT looks at the last step and holds all graphs.
    """

    episodes = None

    def __init__(self, rows: int, inner: int, outer: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(rows, inner, generator=generator) / math.sqrt(inner)
        self.y = torch.randn(rows, generator=generator)
        self.group = torch.arange(rows) % outer
        self.outer = {"lam": torch.linspace(-1.0, 1.0, outer)}
        self.start, self.steps, self.blocks = {"z": torch.zeros(inner)}, steps, (outer, 1)

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def errors(self, inner: Params) -> Tensor:
        return (self.x @ inner["z"] - self.y).square()

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        weights = outer["lam"].sigmoid()[self.group]
        decay = 0.1 + outer["lam"].square().mean()
        return (weights * self.errors(inner)).mean() + decay * inner["z"].square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.01 * outer["lam"].square().mean() - self.errors(inner).mean()

    def data(self, extra: int) -> StepData:
        count = self.steps + extra
        batches = {"block": torch.zeros((), dtype=torch.int64).expand(count)}
        return StepData(self.start, batches, {}).split(self.steps)


def case(
    name: str, sizes: dict[str, int] = BASE, settings: tuple[str, ...] = ()
) -> tuple[Hypergradient[Any], InnerLoop, Params, StepData]:
    """A method, in the settings of its yaml and others, on the regression of these sizes."""
    config = composed(f"method={name}", "task=quadratic", "device=cpu", *settings)
    method, solver, start = (instantiate(config[part]) for part in ("method", "solver", "start"))
    problem = Regression(**sizes)
    loop, data = InnerLoop(problem, solver, start), problem.data(method.extras(problem.steps))
    outer = {**loop.outer_init(data, problem.outer), **problem.outer}
    return method, loop, outer, loop.drawn(outer, data, torch.Generator().manual_seed(0))


def taken(name: str, sizes: dict[str, int] = BASE, settings: tuple[str, ...] = ()) -> float:
    """Numbers that the tensors of one estimate take at once, with what came into it."""
    method, loop, outer, data = case(name, sizes, settings)
    with torch.no_grad(), Metered() as meter:
        noise = method.draw(outer, torch.Generator().manual_seed(0))
        carry = method.begin(loop, outer, data, loop.fresh(outer, data))
        method.estimate(loop, outer, data._replace(noise=noise), carry)
    return meter.peak / 8


def declared(name: str, sizes: dict[str, int] = BASE) -> float:
    """The same as the method says, with a little for what every method holds."""
    method, loop, outer, data = case(name, sizes)
    graphs.graph_of_step(loop, outer, data)
    known = graphs.sized(loop, outer, data)
    every = 1.5 * known.graph + 8 * known.state + 5 * known.outer
    return every + growth.numbers(method.holds(known))


@pytest.fixture(autouse=True)
def tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets here count what tensors take, as the meters of this file do, and no nodes."""
    monkeypatch.setattr(graphs, "NODE", 0)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "size"), crossed(options("method"), BASE, 8))
def test_memory_grows_with_what_the_method_says(name: str, size: str) -> None:
    larger = BASE | {size: FACTOR * BASE[size]}
    found = taken(name, larger) / taken(name)
    expected = declared(name, larger) / declared(name)
    # Of eight times as much, a method that says nothing of it would be off by up to eight.
    assert 0.45 < found / expected < 2.2


def parts_of(name: str) -> growth.Parts:
    method, loop, outer, data = case(name)
    return method.holds(graphs.sized(loop, outer, data))


def holds_something(name: str) -> bool:
    return class_of("method", name).holds is not Hypergradient.holds


SAYING = [
    one_in(4, number, name)
    for number, name in enumerate(options("method"))
    if holds_something(name)
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if holds_something(name) else pytest.mark.slow)
        for name in options("method")
    ],
)
def test_no_method_remembers_steps_that_it_does_not_say_it_holds(name: str) -> None:
    more = BASE | {"steps": 32 * BASE["steps"]}
    if declared(name, more) < 1.05 * declared(name):
        assert taken(name, more) < 1.3 * taken(name)


@pytest.mark.parametrize("name", SAYING)
def test_what_is_said_to_make_a_part_smaller_does(name: str) -> None:
    before = taken(name)
    for way in {way for part in parts_of(name) for way in part.less}:
        group, _, option = way.partition("=")
        if way == "inner_steps":
            assert taken(name, BASE | {"steps": BASE["steps"] // 2}) < 0.9 * before
        elif group == "method":
            assert taken(option) < 0.5 * before
        elif option:
            assert taken(name, settings=(way,)) < 0.9 * before
        else:
            setting = way.removeprefix("method.")
            value = OmegaConf.select(composed(f"method={name}").method, setting)
            assert taken(name, settings=(f"{way}={max(1, value // 4)}",)) < 0.9 * before


@pytest.mark.usefixtures("budget_of_this_process")
@pytest.mark.parametrize("name", SAYING)
def test_an_estimate_in_a_small_budget_takes_less_memory_and_is_the_same(name: str) -> None:
    if not any(part.within for part in parts_of(name)):
        return  # a run refuses what does not fit

    def estimate(budget: str) -> tuple[Params, float]:
        memory.set_budget(budget, torch.device("cpu"))
        method, loop, outer, data = case(name, BASE | {"steps": 8})
        noise = method.draw(outer, torch.Generator().manual_seed(0))
        carry = method.begin(loop, outer, data, loop.fresh(outer, data))
        data = data._replace(noise=noise)
        with torch.no_grad():
            method.check(loop, outer, data)
            method.estimate(loop, outer, data, carry)  # which measures
            with Metered() as meter:
                found = method.estimate(loop, outer, data, carry)
        return found.grad, meter.peak

    everything, most = estimate("1 TB")
    pieces, least = estimate("4 kB")  # the graph of one step takes two
    for key, value in everything.items():
        torch.testing.assert_close(pieces[key], value, rtol=1e-10, atol=1e-13)
    assert least < 0.85 * most


@pytest.mark.usefixtures("budget_of_this_process")
@pytest.mark.parametrize("name", SAYING)
def test_what_cannot_be_computed_in_pieces_is_refused_where_it_does_not_fit(name: str) -> None:
    method, loop, outer, data = case(name)
    memory.set_budget("1 TB", torch.device("cpu"))
    known = foresight.check_memory(method, loop, outer, data)
    # Graphs of the steps of a segment are measured later, by the first estimate.
    parts = known.parts(method, loop, known.sizes.graph)
    memory.set_budget(1, torch.device("cpu"))
    if all(part.within or not part.numbers for part in parts):
        foresight.check_memory(method, loop, outer, data)
        return
    with pytest.raises(ValueError, match=r"got 1 B by device\.memory_budget") as refused:
        foresight.check_memory(method, loop, outer, data)
    words = str(refused.value)
    assert len(words) <= 400
    named = {way for part in parts for way in part.less if way in words}
    assert named


@pytest.mark.parametrize("name", options("method"))
def test_the_advice_after_an_error_names_inner_steps_where_they_take_memory(name: str) -> None:
    method, loop, outer, data = case(name, BASE | {"steps": 40})
    # What the solver draws for its steps is no part of the method.
    known = foresight.check_memory(method, loop, outer, data)._replace(draws=0)
    named = smaller(known.parts(method, loop, graph=1000))
    few, many = (method.holds(known.sizes._replace(graph=1000, steps=k)) for k in (40, 400))
    # That the declared parts are those that are taken is the first test of this file.
    assert ("inner_steps" in named) is (growth.numbers(many) > 2 * growth.numbers(few))


class Chain:
    """Four nodes a step: a product with an outer parameter, its sine, a sum and a view."""

    def step(self, z: Tensor, weight: Tensor) -> Tensor:
        return (z + (weight * z).sin()).view(-1)


def test_the_nodes_of_a_step_are_those_between_its_state_and_the_one_before() -> None:
    weight, chain = torch.ones(3, requires_grad=True), Chain()
    with torch.enable_grad():
        before = torch.ones(3, requires_grad=True) * 2
        after = chain.step(chain.step(before, weight), weight)
    # The outer parameter has a node of its own, which all steps share.
    assert graphs.nodes({"z": after}, {"z": before}) == 2 * 4 + 1
    assert graphs.nodes({"z": before}, {"z": before}) == 0


def test_the_graph_of_small_operations_counts_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, loop, outer, data = case("reverse")
    tensors = graphs.graph_bytes(loop, outer, data)
    monkeypatch.setattr(graphs, "NODE", 1000)
    around = graphs.graph_bytes(loop, outer, data) - tensors
    assert around % 1000 == 0
    assert 15_000 < around < 30_000  # some twenty operations


@pytest.mark.slow
def test_resident_memory_of_many_small_steps_is_what_is_counted() -> None:
    code = "import test_growth; print(test_growth.resident(3000))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    counted, taken = map(float, found.stdout.split())
    assert 0.75 < counted / taken < 1.33  # of tensors alone, less than a tenth were counted


def resident(steps: int) -> str:
    """Bytes of the graph of a step that are counted, and that many steps take, each."""
    _, loop, outer, data = case("reverse")

    def run(state: SolverState, outer: Params, count: int = 500) -> SolverState:
        for _ in range(count):
            state = loop.step(state, outer, data, 0)
        return state

    def memory_now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with torch.no_grad():
        held = [autodiff.vjp(run, loop.fresh(outer, data), outer)]  # which fills torch's pools
        before = memory_now()
        held.append(autodiff.vjp(partial(run, count=steps), loop.fresh(outer, data), outer))
        taken = (memory_now() - before) / steps
    return f"{graphs.graph_bytes(loop, outer, data)} {taken}"

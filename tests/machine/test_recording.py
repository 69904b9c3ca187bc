"""A loop of recordings takes the steps that a loop of Python takes, bit for bit."""

from collections.abc import Callable

import pytest
import torch
from replays import rerun
from torch import Tensor
from waits import nobody_waits

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine.capture import WARM_UP, cuda_graph
from bilevel_cli.machine.looping import NotCompiled
from bilevel_cli.machine.recording import Record, recorded

LONGEST = 40


def on_cpu(fn: Callable[[], Tree], calls: int) -> tuple[Tree, Callable[[], None]]:
    for _ in range(calls):
        fn()
    return rerun(fn)


def step(moving: Tree, given: Tree) -> tuple[Tree, Tree]:
    """Has entries change places, keeps one as it is, and reports what it was given to change."""
    x, (old, older) = moving["x"], moving["past"]
    row = x.index_select(0, given["row"][None])
    new = torch.sin(x) + given["number"] * row - 0.5 * older
    count = moving["count"] + 1
    return (
        {"past": (x, old), "x": new, "none": None, "kept": moving["kept"], "count": count},
        {"before": x, "number": given["number"], "same": moving["kept"], "sum": new.sum()},
    )


def moving(place: str) -> Tree:
    generator = torch.Generator().manual_seed(0)
    x, old, older = torch.randn(3, 5, generator=generator).to(place)
    kept, count = torch.ones(2).to(place), torch.zeros((), dtype=torch.int64).to(place)
    parts = {"x": x, "past": (old, older), "none": None, "kept": kept, "count": count}
    return trees.map_leaves(lambda x: x.clone(), parts)


def given(place: str, seed: int = 1) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(5, (LONGEST,), generator=generator)
    return {
        "row": rows.to(place),
        "number": torch.randn(LONGEST, generator=generator).to(place),
    }


def one_by_one(now: Tree, every: Tree, steps: int) -> tuple[Tree, Tree]:
    report: Tree = None
    for number in range(steps):
        one = trees.map_leaves(lambda x, number=number: x[number], every)
        now, report = step(now, one)
    return now, report


def assert_same(found: Tree, expected: Tree) -> None:
    trees.map_leaves(_assert_equal, found, expected)


def _assert_equal(a: Tensor, b: Tensor) -> Tensor:
    assert torch.equal(a, b)
    return a


def check(record: Record, place: str) -> None:
    now, every = moving(place), given(place)
    loop = recorded(step, now, every, record)
    assert_same(now, moving(place))  # which no recording moves
    reports = []
    for number, steps in enumerate((1, 5, LONGEST, 16, 3)):
        every = given(place, number)
        expected, said = one_by_one(trees.map_leaves(torch.clone, now), every, steps)
        reports.append((loop(now, every, steps), said))
        assert_same(now, expected)
    for report, said in reports:  # which no later call changes
        assert_same(report, said)


def test_steps_of_recordings_are_those_of_a_loop_of_python() -> None:
    check(on_cpu, "cpu")


@pytest.mark.gpu
def test_steps_of_cuda_graphs_are_those_of_a_loop_of_python() -> None:
    check(_graph, "cuda")


@pytest.mark.gpu
def test_no_step_of_a_recording_waits_for_the_host() -> None:
    now, every = moving("cuda"), given("cuda")
    loop = recorded(step, now, every, _graph)
    loop(now, every, 21)
    with nobody_waits():
        loop(now, every, 37)


def _graph(fn: Callable[[], Tree], calls: int) -> tuple[Tree, Callable[[], None]]:
    return cuda_graph(fn, torch.device("cuda"), calls)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda after: {**after, "more": after["x"]}, "what moves changes its entries"),
        (lambda after: {**after, "x": after["x"][:4]}, "what moves changes its shape"),
        (lambda after: {**after, "x": after["x"].float()}, "what moves changes its shape"),
    ],
)
def test_a_step_that_changes_the_shape_of_what_moves_is_no_loop(
    change: Callable[[Tree], Tree], words: str
) -> None:
    def grows(now: Tree, one: Tree) -> tuple[Tree, Tree]:
        after, report = step(now, one)
        return change(after), report

    with pytest.raises(NotCompiled, match=words):
        recorded(grows, moving("cpu"), given("cpu"), on_cpu)


def test_a_recording_that_memory_does_not_hold_is_made_of_fewer_steps() -> None:
    calls: list[int] = []

    def short_of_memory(fn: Callable[[], Tree], warm_up: int) -> tuple[Tree, Callable[[], None]]:
        calls.append(warm_up)
        if len(calls) == 3:  # after those of one step and of four
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return on_cpu(fn, warm_up)

    check(short_of_memory, "cpu")
    assert calls == [WARM_UP, 1, 1]  # and none of sixteen again


@pytest.mark.gpu
def test_a_step_that_waits_for_the_gpu_is_no_loop() -> None:
    def waits(now: Tree, one: Tree) -> tuple[Tree, Tree]:
        after, report = step(now, one)
        return {**after, "x": after["x"] * after["x"].sum().item()}, report

    with pytest.raises(NotCompiled, match="captur"):
        recorded(waits, moving("cuda"), given("cuda"), _graph)

"""Data drawn ahead of many outer steps are those that the steps would draw."""

from pathlib import Path
from typing import Any

import pytest
import torch
from configs import configured, one_in, options, small
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.random import Stream
from bilevel_cli.runs.ahead import Ahead, Whole
from bilevel_cli.runs.state import RunState

pytestmark = pytest.mark.usefixtures("digits_read_once")


def state(folder: Path, *overrides: str) -> RunState:
    return runner_in(configured("device=cpu", "device.dtype=float64", *overrides), folder).state


def ahead_of(run: RunState) -> Ahead:
    return Ahead(run.experiment, run.plan.schedule.inner_steps, run.outer, run.random)


def data_of(inputs: Any) -> list[Tensor]:
    _, data, _ = inputs
    return trees.leaves(tuple(data._replace(whole={})))


def check_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))


CASES = [
    ("task=quadratic", "method=saba"),
    ("task=quadratic", "method=es"),
    ("task=sinusoid", "method=iaptt"),
    ("task=logistic", "method=saba", "task.batch_size=7"),
    ("task=logistic", "method=mrbo", "task.batch_size=7"),
    ("task=ridge", "method=reverse"),
    ("task=ridge", "method=reverse", "solver=langevin"),
    ("task=sinusoid", "method=iaptt", "solver=langevin"),
]


@pytest.mark.parametrize("case", CASES, ids=",".join)
def test_what_is_drawn_ahead_is_what_the_steps_draw(case: tuple[str, ...], tmp_path: Path) -> None:
    overrides = [*small(case[0].split("=")[1]), *case, "inner_steps=3"]
    drawn_ahead, one_by_one = (state(tmp_path, *overrides) for _ in range(2))
    for _ in range(2):  # in a run that has begun
        drawn_ahead.draw(), one_by_one.draw()
    ahead = ahead_of(drawn_ahead)
    for steps in (1, 11, 4):
        found = ahead.draw(steps)
        for number in range(steps):
            row = trees.map_leaves(lambda x, number=number: x[number], found)
            expected, got = data_of(one_by_one.draw()), trees.leaves(tuple(ahead.data(row)))
            check_equal(got, expected)
    saved = (trees.leaves(run.random.saved()) for run in (drawn_ahead, one_by_one))
    check_equal(*saved)


@pytest.mark.parametrize(
    "task", [one_in(6, number, task) for number, task in enumerate(options("task"))]
)
def test_every_task_has_its_data_drawn_ahead(task: str, tmp_path: Path) -> None:
    overrides = [f"task={task}", *small(task), "inner_steps=2"]
    drawn_ahead, one_by_one = (state(tmp_path, *overrides) for _ in range(2))
    ahead = ahead_of(drawn_ahead)
    found = ahead.draw(3)
    for number in range(3):
        row = trees.map_leaves(lambda x, number=number: x[number], found)
        expected, got = data_of(one_by_one.draw()), trees.leaves(tuple(ahead.data(row)))
        check_equal(got, expected)
    saved = (trees.leaves(run.random.saved()) for run in (drawn_ahead, one_by_one))
    check_equal(*saved)


def test_looking_ahead_leaves_the_streams_as_they_are(tmp_path: Path) -> None:
    run = state(tmp_path, "task=quadratic", "method=es")
    before = run.random.saved()
    ahead = ahead_of(run)
    with ahead.undone():
        ahead.draw(5)
    after = trees.leaves(run.random.saved())
    assert all(map(torch.equal, after, trees.leaves(before)))


def test_data_that_were_the_same_by_chance_are_refused_with_the_streams_as_before() -> None:
    held = torch.zeros(3)
    many: list[Tensor] = []

    def sample(sampling: Any, extras: Any) -> Any:
        many.append(torch.rand(2, generator=sampling))
        init = held if len(many) < 4 else torch.zeros(3)
        return StepData({"z": init}, {"x": many[-1]}, {})

    streams: Any = Stream(), Stream()
    whole = Whole(sample, streams)
    before = streams[0].get_state()
    with pytest.raises(ValueError, match="seemed to be the same"):
        whole.draw(3, *streams)
    assert torch.equal(streams[0].get_state(), before)

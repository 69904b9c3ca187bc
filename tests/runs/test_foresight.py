"""What is told and refused before a run begins, and how a long outer step is stopped."""

import logging
import resource
import signal

import pytest
import torch

from bilevel_cli.core import counting
from bilevel_cli.core.problem import StepData
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.machine import memory
from bilevel_cli.machine.signals import Stopped
from bilevel_cli.runs import foresight, progress
from bilevel_cli.runs.progress import Progress

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("budget_of_this_process")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(count: int) -> StepData:
    x = torch.zeros(count, 25, dtype=torch.float32)  # 100 bytes for each inner step
    return StepData({"z": torch.zeros(3)}, {"x": x}, {"x": torch.zeros(7)})


def test_minibatches_of_all_inner_steps_are_refused_before_they_are_drawn() -> None:
    memory.set_budget("1 kB", CPU)
    asked: list[int] = []

    def draw(count: int) -> StepData:
        asked.append(count)
        return drawn(count)

    foresight.check_minibatches(draw, 10, CPU)
    with pytest.raises(ValueError, match=r"1\.1 kB for inner_steps=11, got 1 kB by"):
        foresight.check_minibatches(draw, 11, CPU)
    assert max(asked) == 2


def test_a_full_batch_that_serves_all_inner_steps_counts_once() -> None:
    memory.set_budget("1 kB", CPU)

    def draw(count: int) -> StepData:
        x = torch.zeros(25).expand(count, 25)
        return StepData({}, {"x": x}, {})

    foresight.check_minibatches(draw, 10**9, CPU)


def test_without_a_budget_all_that_is_free_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 1000)
    memory.set_budget("auto", CPU)
    assert (memory.budget(), memory.limit(CPU), memory.limit(CPU, 4)) == (500, 1000, 250)
    memory.set_budget(300, CPU)
    assert (memory.budget(), memory.limit(CPU)) == (300, 300)


def test_what_ulimit_leaves_is_free_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 4096 * 1000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (taken + 10**6, -1))
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    monkeypatch.setattr(memory, "_pages", lambda: 1000)
    assert memory.free(CPU) == 10**6


def test_a_signal_waits_for_a_short_step_and_stops_a_long_one_between_two_columns() -> None:
    clock, requests = Clock(), [int(signal.SIGTERM)]
    shown = Progress(3, quiet=True, clock=clock)
    done = 0

    def matvec(vector: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 1
        clock.now += 1.0
        return 2 * vector

    with counting.told(shown.estimating(requests)):
        Exact(damping=0.0, rtol=None).solve(matvec, torch.ones(5), torch.zeros(5))
    assert done == 5  # within the seconds that a signal waits
    done = 0
    with pytest.raises(Stopped) as stopped, counting.told(shown.estimating(requests)):
        Exact(damping=0.0, rtol=None).solve(matvec, torch.ones(100), torch.zeros(100))
    assert stopped.value.signum == signal.SIGTERM
    assert done <= progress.WAIT + 2


def test_the_parts_of_a_long_step_are_shown_and_those_of_a_short_one_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    shown = Progress(3, clock=clock)
    with caplog.at_level(logging.INFO), counting.told(shown.estimating([])):
        for _ in counting.counted(range(100), 100):
            clock.now += 1.0
    assert [record.getMessage() for record in caplog.records] == [
        "Step 0 of 3: part 61/100, ? left"
    ]

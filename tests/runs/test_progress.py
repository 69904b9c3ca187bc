"""What a user sees of a run while it goes on."""

import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tqdm import tqdm

from bilevel_cli.core import counting
from bilevel_cli.core.threads import on_cores
from bilevel_cli.runs import progress
from bilevel_cli.runs.progress import EVERY, Progress


class Time:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def parts(self, count: int, seconds: float) -> Iterator[int]:
        """The parts of an evaluation, each of which takes as long."""
        for part in range(count):
            self.now += seconds
            yield part


def bar_of(columns: int, screen: io.StringIO) -> Any:
    class Narrow(tqdm):  # type: ignore[type-arg]
        def __init__(self, **given: Any) -> None:
            given |= {"dynamic_ncols": False, "ncols": columns, "file": screen, "mininterval": 0}
            super().__init__(**given)

    return Narrow


def last_line(screen: io.StringIO) -> str:
    return [line for line in screen.getvalue().split("\r") if line.strip()][-1]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_step_loss_score_and_time_left_are_seen_in_so_many_columns(columns: int) -> None:
    screen = io.StringIO()
    with Progress(10_000, 1233, bar=bar_of(columns, screen)) as shown:
        shown.step()
        shown.report({"outer_loss": 0.68724}, {"test_accuracy": 0.92154, "other": 3.0})
        with shown.evaluating():
            pass
        seen = last_line(screen)
    assert len(seen) <= columns
    assert seen.startswith("step 1234/10000 |")
    assert "| loss 0.6872, test" in seen
    assert " 0.9215, " in seen
    assert seen.rstrip().endswith(" left")
    assert ("test_accuracy" in seen) == (columns >= 80)
    assert "other" not in seen


def test_a_terminal_of_forty_columns_still_has_the_score() -> None:
    screen = io.StringIO()
    with Progress(1000, bar=bar_of(40, screen)) as shown:
        shown.report({"outer_loss": 0.68724}, {"test_accuracy": 0.92154})
        with shown.evaluating():
            pass
        assert "test. 0.9215" in last_line(screen)


def test_an_evaluation_says_how_many_of_its_parts_are_done() -> None:
    screen, time = io.StringIO(), Time()
    with Progress(1000, bar=bar_of(80, screen), clock=time) as shown, shown.evaluating():
        # 0.75 of the seconds between two sights: every other part is one.
        for part in counting.counted(time.parts(100, 0.75 * progress.REFRESH), 100):
            if part == 36:
                assert "evaluating 36/100" in last_line(screen)
    assert screen.getvalue().count("evaluating") == 1 + 50


def test_parts_on_threads_are_counted_and_parts_of_parts_are_not() -> None:
    heard = []

    def part(number: int) -> int:
        return sum(on_cores(lambda x: x + number, range(3), workers=1))

    before = torch.get_num_threads()
    with counting.told(lambda number, count: heard.append((number, count))):
        found = on_cores(part, range(4), workers=2)
    assert found == on_cores(part, range(4)) == [3, 6, 9, 12]
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.get_num_threads() == before


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no terminal
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_without_a_terminal_there_is_a_line_a_minute(logged: Any) -> None:
    time = Time()
    with Progress(1000, clock=time) as shown:
        for step in range(1, 21):
            time.now += 10
            shown.step()
            if step % 5 == 0:
                shown.report({"outer_loss": 0.5 / step}, {"accuracy": 0.9})
    # After 60, 120 and 180 seconds: 10 seconds a step.
    assert logged() == [
        "Step 6 of 1000: loss 0.1, accuracy 0.9, 2:45:40 left",
        "Step 12 of 1000: loss 0.05, accuracy 0.9, 2:44:40 left",
        "Step 18 of 1000: loss 0.03333, accuracy 0.9, 2:43:40 left",
    ]


def test_a_long_evaluation_is_told_of_too(logged: Any) -> None:
    time = Time()
    with Progress(10, clock=time) as shown, shown.evaluating():
        for _ in counting.counted(time.parts(200, EVERY / 64), 200):
            pass
    assert logged() == [
        "Step 0 of 10: evaluating 64/200, ? left",
        "Step 0 of 10: evaluating 128/200, ? left",
        "Step 0 of 10: evaluating 192/200, ? left",
    ]


def test_a_follower_shows_nothing(logged: Any) -> None:
    time = Time()
    with Progress(10, quiet=True, bar=bar_of(80, io.StringIO()), clock=time) as shown:
        time.now += 2 * EVERY
        shown.step()
        shown.report({"outer_loss": 0.5}, {})
    assert logged() == []


def test_a_closed_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(10) as shown:
        shown.step()
        shown.report({"outer_loss": 0.5}, {"score": 1.0})

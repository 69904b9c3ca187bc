"""The line of a sweep: below what is printed in a terminal, and once a minute elsewhere."""

import io
import sys
import threading
import time
from collections.abc import Callable

import pytest
from tqdm import tqdm

from bilevel_cli.runs import prefixed_bar
from bilevel_cli.sweeps import status_line
from bilevel_cli.sweeps.status_line import StatusLine


class Screen(io.StringIO):
    """A terminal of one long page, which obeys the letters that a line and a bar need."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.column = [""], 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        rest = text
        while rest:
            if rest.startswith("\x1b[2K"):
                self.lines[-1], rest = "", rest[4:]
                continue
            letter, rest = rest[0], rest[1:]
            if letter == "\r":
                self.column = 0
            elif letter == "\n":
                self.lines.append("")
                self.column = 0
            else:
                line = self.lines[-1].ljust(self.column)
                self.lines[-1] = line[: self.column] + letter + line[self.column + 1 :]
                self.column += 1
        return len(text)

    @property
    def seen(self) -> list[str]:
        return [line.rstrip() for line in self.lines]


def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A screen in place of the standard streams; pytest puts its own there before each test."""
    made = Screen()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(status_line, "REFRESH", 0.01)
    monkeypatch.setenv("COLUMNS", "100")
    return made


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_printed_takes_the_place_of_the_line_which_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = terminal(monkeypatch)
    with status_line.shown(lambda: "1 of 3, 1 running"):
        wait_for(lambda: screen.seen == ["1 of 3, 1 running"])
        print("a job says something")
        wait_for(lambda: screen.seen == ["a job says something", "1 of 3, 1 running"])
        print("and more", end="")
        time.sleep(0.1)  # half a line is left alone
        assert screen.seen == ["a job says something", "and more"]
        print(" of it", file=sys.stderr)
        wait_for(lambda: screen.seen[-1] == "1 of 3, 1 running")
    assert screen.seen == ["a job says something", "and more of it", ""]
    assert sys.stdout is sys.stderr is screen


def test_the_bar_of_a_run_takes_the_line_in_and_neither_draws_over_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = terminal(monkeypatch)
    with status_line.shown(lambda: "1 of 3, 1 running"):
        wait_for(lambda: screen.seen == ["1 of 3, 1 running"])
        said = status_line.said()
        assert said
        form = "step {n_fmt}/{total_fmt} |{bar}| {desc}{remaining} left"
        bar = prefixed_bar.behind(said)(total=50, bar_format=form, ncols=80, leave=False)
        for _ in range(3):
            bar.update(10)
            bar.refresh()
            time.sleep(0.03)
            assert len(screen.seen) == 1
            assert screen.seen[0].startswith("1 of 3, 1 running: step ")
            assert screen.seen[0].endswith(" left")
            assert len(screen.seen[0]) <= 80
        tqdm.write("a line of the log")
        bar.close()
        wait_for(lambda: screen.seen == ["a line of the log", "1 of 3, 1 running"])
    assert status_line.said() is None


def test_a_narrow_terminal_keeps_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    form = "step {n_fmt}/{total_fmt} |{bar}| {desc}{remaining} left"
    behind = prefixed_bar.behind(lambda: "100 of 900, 10 running, 12 failed, about 2 h left")
    bar = behind(total=50, bar_format=form, ncols=50, file=screen)
    bar.refresh()
    assert "left" in screen.seen[0][20:]
    assert len(screen.seen[0]) <= 50
    bar.close()


def test_without_a_terminal_there_is_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_line, "REFRESH", 0.001)
    monkeypatch.setattr(status_line, "SHARE", 0)
    now = [0.0]
    asked = threading.Semaphore(0)

    def ask() -> str:
        now[0] += 1.0
        asked.release()
        return f"at {now[0]:.0f} s"

    with StatusLine(ask, io.StringIO(), clock=lambda: now[0]):
        for _ in range(130):
            assert asked.acquire(timeout=30)
    printed = capsys.readouterr().out.split("\n")
    assert printed[:2] == ["at 60 s", "at 120 s"]


def test_a_line_that_cannot_be_told_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)

    def ask() -> str:
        raise OSError("the folder is gone")

    with status_line.shown(ask):
        time.sleep(0.05)
        print("a job")
    assert screen.seen == ["a job", ""]

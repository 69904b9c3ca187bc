"""What bilevel-run says when a run ends: the words are true, and the commands work."""

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import bilevel_run, numbers
from hydra.core.override_parser.overrides_parser import OverridesParser

from bilevel_cli.commands.ending import Where
from bilevel_cli.runs import build
from bilevel_cli.runs.runner import Runner

SMALL = ["task=quadratic", "device=cpu", "outer_steps=40", "inner_steps=2", "log_every=1"]
Go = Callable[..., tuple[int, str, str]]


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Go:
    """Runs the command in an empty folder, and stops it by signals where a step begins."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, at: int | None = None, signals: Any = ()) -> tuple[int, str, str]:
        def built(*given: Any) -> Runner:
            runner = make(*given)
            draw = runner.state.draw

            def stopping() -> Any:
                if runner.step == at:
                    for signum in signals:
                        os.kill(os.getpid(), signum)
                return draw()

            runner.state.draw = stopping  # type: ignore[method-assign]
            return runner

        make = build.build
        capfd.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(build, "build", built)
            code = bilevel_run(patched, *arguments)
        return code, *capfd.readouterr()

    return run


def test_the_end_says_what_was_written_and_how_to_see_it(go: Go) -> None:
    code, out, _ = go(*SMALL, "hydra.run.dir='my runs'")
    assert code == 0
    assert out.splitlines()[-2:] == [
        "Wrote train.csv, eval.csv, outer.pt to my runs",
        "Next: bilevel-report 'my runs'",
    ]


def test_replicas_and_sweeps_say_it_once(go: Go) -> None:
    _, out, _ = go(*SMALL, "replicas=2", "hydra.run.dir=pair")
    assert [line for line in out.splitlines() if "bilevel-report" in line] == [
        "Next: bilevel-report pair"
    ]
    _, out, _ = go(*SMALL, "-m", "seed=0,1", "hydra.sweep.dir=sweep")
    assert out.count("bilevel-report") == 1
    assert out.splitlines()[-1] == "Next: bilevel-report sweep"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_that_is_printed_continues_the_run(signum: int, code: int, go: Go) -> None:
    found, _, error = go(*SMALL, at=18, signals=[signum])
    assert found == code
    lines = error.strip().splitlines()
    assert lines[-2] == "bilevel-run: interrupted after step 19. This continues:"
    program, *arguments = shlex.split(lines[-1])
    assert program == "bilevel-run"
    code, out, _ = go(*arguments)
    assert code == 0
    assert "Continuing after step 19" in out
    (folder,) = Path("outputs/quadratic-reverse").iterdir()
    go(*SMALL, "hydra.run.dir=whole")
    assert numbers(folder / "train.csv") == numbers(Path("whole/train.csv"))


def test_the_same_command_continues_where_it_names_the_folder(go: Go) -> None:
    command = [*SMALL, "hydra.run.dir=here"]
    _, _, error = go(*command, at=18, signals=[signal.SIGINT])
    assert error.endswith("bilevel-run: interrupted after step 19; the same command continues.\n")
    code, out, _ = go(*command)
    assert (code, "Continuing after step 19" in out) == (0, True)


def test_stopped_at_once_it_says_from_which_step_it_continues(go: Go) -> None:
    command = [*SMALL, "hydra.run.dir=here", "save_every=10"]
    _, _, error = go(*command, at=18, signals=[signal.SIGINT] * 2)
    assert error.endswith("interrupted; the same command continues after step 10.\n")
    _, out, _ = go(*command)
    assert "Continuing after step 10" in out


def test_before_the_first_checkpoint_the_same_command_begins_anew(go: Go) -> None:
    command = [*SMALL, "hydra.run.dir=here"]
    _, _, error = go(*command, at=18, signals=[signal.SIGINT] * 2)
    assert error.endswith(
        "interrupted before the first checkpoint; the same command begins anew.\n"
    )
    code, out, _ = go(*command)
    assert (code, "Continuing" in out) == (0, False)


def test_a_sweep_is_continued_by_the_command_that_is_printed(go: Go) -> None:
    code, out, error = go(*SMALL, "-m", "seed=0,1", at=18, signals=[signal.SIGINT])
    assert (code, "bilevel-report" in out) == (130, False)
    assert "bilevel-run: interrupted after step 19. This continues:" in error
    _, *arguments = shlex.split(error.strip().splitlines()[-1])
    code, out, _ = go(*arguments)
    assert (code, "Continuing after step 19" in out) == (0, True)
    assert "2 jobs: 2 completed" in out


@pytest.mark.parametrize("folder", ["plain/of-it", "with space", "it's", "a=1,b=2"])
def test_a_folder_of_any_name_is_quoted_for_the_shell_and_for_hydra(folder: str) -> None:
    again = Where("hydra.run.dir", folder).again(["task=meta"])
    assert again is not None
    *_, last = shlex.split(again)
    assert Where("hydra.run.dir", folder).again([last]) is None
    assert OverridesParser.create().parse_override(last).value() == folder

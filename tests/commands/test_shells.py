"""What shells do to a command: streams closed or full, readers that leave, terminals that close."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import numbers

from bilevel_cli.runs import checkpoint
from bilevel_cli.vocabulary import CHECKPOINT

SMALL = ["task=quadratic", "device=cpu", "outer_steps=12", "inner_steps=2", "log_every=1"]
ENDLESS = [*SMALL, "outer_steps=1000000", "save_every=1000000", "eval_every=1000000"]
Command = list[str]

# Commands whose answer is what they print, and which need neither torch nor a run.
ANSWERS = [
    ["run", "--version"],
    ["run", *SMALL, "--cfg", "job"],
    ["init", "--help"],
]
MORE_ANSWERS = [
    ["run", "--help"],
    ["run", "task=?"],
    ["run"],
    ["run", "solver=gd?"],
    ["run", "--hydra-help"],
    ["run", *SMALL, "--info", "defaults"],
    ["run", *SMALL, "--info", "all"],
    ["run", *SMALL, "--cfg", "all", "--resolve"],
    ["run", "-sc", "install=bash"],
    ["run", "-sc", "install=zsh"],
    ["run", "-sc", "query=fish"],
    ["report", "--help"],
    ["report", "--version"],
    ["labels", "--help"],
    ["check", "--help"],
    ["check", "method=cg"],
    ["distilled", "--version"],
    ["init", "method", "sgn"],
]
EVERY = [*ANSWERS, *(pytest.param(one, marks=pytest.mark.faults) for one in MORE_ANSWERS)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COMP_LINE", "bilevel-run task=quad")


def called(name: str, *arguments: str) -> list[str]:
    module = f"bilevel_cli.commands.{name}"
    return [sys.executable, "-c", f"from {module} import main; main()", *arguments]


def under(redirections: str, command: Command) -> "subprocess.CompletedProcess[str]":
    """A command as a shell starts it with some redirections."""
    shell = ["sh", "-c", f'exec "$@" {redirections}', "sh", *command]
    return subprocess.run(shell, capture_output=True, text=True)


def before_nobody(command: Command) -> tuple[int, str]:
    """The exit code of a command whose reader has left, and what it said on standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    return done.returncode, done.stderr


def status(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["status"])


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_a_reader_that_left_is_no_error(command: list[str]) -> None:
    assert before_nobody(called(*command)) == (0, "")


@pytest.mark.parametrize("command", EVERY[:2], ids=" ".join)
def test_an_answer_that_a_full_disk_did_not_take_ends_with_3_and_one_line(
    command: list[str],
) -> None:
    done = under(">/dev/full", called(*command))
    assert done.returncode == 3
    why = "Standard output could not be written: No space left on device."
    assert done.stderr == f"bilevel-run: {why}\n"


SHELLS = ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"]
SHELLS += [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"]


@pytest.mark.faults
@pytest.mark.parametrize("redirections", SHELLS)
def test_a_run_needs_no_standard_stream(redirections: str, tmp_path: Path) -> None:
    done = under(redirections, called("run", *SMALL, f"hydra.run.dir={tmp_path / 'r'}"))
    assert done.returncode == 0
    assert done.stderr == ""
    assert status(tmp_path / "r") == "completed"
    assert len(numbers(tmp_path / "r" / "train.csv")) == 12
    kept = (tmp_path / "r" / "bilevel.log").read_text()
    assert "Wrote train.csv, eval.csv, outer.pt to " in kept
    # No file of the run has what was meant for a stream.
    for name in ("train.csv", "eval.csv", "manifest.json", "lock"):
        assert "Wrote" not in (tmp_path / "r" / name).read_text()


@pytest.mark.faults
@pytest.mark.parametrize("redirections", ["2>&-", ">&-", ">&- 2>&-"])
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_needs_no_standard_stream(redirections: str, launcher: str, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / 's'}"]
    assert under(redirections, called("run", *SMALL, *sweep)).returncode == 0
    manifests = list((tmp_path / "s").glob("*/manifest.json"))
    assert [status(path.parent) for path in manifests] == ["completed"] * 2


@pytest.mark.faults
def test_a_run_whose_reader_left_goes_on_to_its_end(tmp_path: Path) -> None:
    for extra in (
        [],
        ["replicas=2"],
        ["-m", "seed=0,1"],
        ["-m", "seed=0,1", "hydra/launcher=joblib"],
    ):
        where = "hydra.sweep.dir" if "-m" in extra else "hydra.run.dir"
        folder = tmp_path / re.sub("[^a-z]", "_", "-".join(extra))
        command = called("run", *SMALL, *extra, f"{where}={folder / 'r'}")
        assert before_nobody(command) == (0, "")
        assert {status(path.parent) for path in folder.rglob("manifest.json")} == {"completed"}


@pytest.mark.faults
def test_watching_ends_with_its_reader(tmp_path: Path) -> None:
    going = subprocess.Popen(
        called("run", *ENDLESS, f"hydra.run.dir={tmp_path / 'r'}"), stdout=subprocess.DEVNULL
    )
    try:
        wait_for_rows(tmp_path / "r")
        watching = called(
            "report", str(tmp_path), "--watch", "--every", "0.2", "--metric", "outer_loss"
        )
        assert before_nobody(watching)[0] == 0
        assert going.poll() is None
    finally:
        going.kill()
        going.wait()


# ---- a terminal that is closed


def wait_for_rows(folder: Path, count: int = 12) -> None:
    deadline = time.monotonic() + 300
    while True:
        tables = list(folder.rglob("train.csv"))
        if tables and all(path.read_bytes().count(b"\n") > count for path in tables):
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_a_terminal_that_closes(command: Command, ready: Callable[[], None]) -> int:
    """The exit code of a command that leads the session of a terminal; negative for a signal."""
    child, master = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    ready()
    os.close(master)  # SIGHUP to the session, and from now on EIO for whatever is written
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads and forks
def test_a_run_whose_terminal_closes_is_saved_with_every_row(tmp_path: Path) -> None:
    stopped = called("run", *ENDLESS, f"hydra.run.dir={tmp_path / 'stopped'}")
    code = in_a_terminal_that_closes(stopped, lambda: wait_for_rows(tmp_path))
    assert code == 128 + signal.SIGHUP
    assert status(tmp_path / "stopped") == "interrupted"
    step = checkpoint.load(tmp_path / "stopped" / CHECKPOINT)["step"]
    rows = numbers(tmp_path / "stopped" / "train.csv")
    assert len(rows) == step >= 12


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    ("how", "runs"),
    [
        (["replicas=2"], 2),
        (["-m", "seed=0,1"], 1),  # the second one has not begun
        (["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 2),
    ],
)
def test_runs_whose_terminal_closes_are_saved(how: list[str], runs: int, tmp_path: Path) -> None:
    where = "hydra.sweep.dir" if "-m" in how else "hydra.run.dir"
    command = called("run", *ENDLESS, *how, f"{where}={tmp_path / 'r'}")

    def ready() -> None:
        while len(list(tmp_path.rglob("train.csv"))) < runs:
            time.sleep(0.02)
        wait_for_rows(tmp_path)

    assert in_a_terminal_that_closes(command, ready) == 128 + signal.SIGHUP
    manifests = list(tmp_path.rglob("manifest.json"))
    assert [status(path.parent) for path in manifests] == ["interrupted"] * runs
    assert len(list(tmp_path.rglob(CHECKPOINT))) == runs


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_under_nohup_a_run_goes_on_without_its_terminal(tmp_path: Path) -> None:
    arguments = [*SMALL, "outer_steps=600", f"hydra.run.dir={tmp_path / 'r'}"]
    command = ["nohup", *called("run", *arguments)]
    assert in_a_terminal_that_closes(command, lambda: wait_for_rows(tmp_path)) == 0
    assert status(tmp_path / "r") == "completed"

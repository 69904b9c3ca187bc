"""Sweeps: what ran is noted, what remains is run, and a table says so."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commands import bilevel_run, numbers
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from sweeping import notes, of_each_run

from bilevel_cli.commands import explain
from bilevel_cli.machine import signals
from bilevel_cli.runs import entry
from bilevel_cli.sweeps import outcome, worker
from bilevel_cli.sweeps.outcome import Outcome

SWEEP = Path("sweep")
QUICK = ["-m", "task=quadratic", "device=cpu", "outer_steps=10", f"hydra.sweep.dir={SWEEP}"]
QUICK += ["task.inner_dim=3", "inner_steps=3"]
Captured = pytest.CaptureFixture[str]
joblib = pytest.mark.skipif(
    not (find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher")),
    reason="needs hydra-joblib-launcher",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the experiments that are run from now on."""
    return of_each_run(monkeypatch, lambda _, directory: directory.name)


def table(out: str) -> list[str]:
    """The lines from the header of the table on, without the one that says what to do next."""
    lines = [line for line in out.splitlines() if not line.startswith("Next: ")]
    return lines[next(n for n, line in enumerate(lines) if line.startswith("job ")) :]


def test_an_interrupted_sweep_of_twelve_runs_exactly_the_unfinished_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    real = entry.run

    def run(*given: Any) -> float | None:
        if len(ran) == 7:
            ran.append("interrupted")
            raise signals.Interrupted(signal.SIGINT)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(entry, "run", run)
        assert bilevel_run(monkeypatch, *QUICK, "seed=range(12)") == 130
    shown = table(capsys.readouterr().out)
    assert shown[-1] == "12 jobs: 7 completed, 1 interrupted, 4 missing"
    done = {name for name, note in notes(SWEEP).items() if note["status"] == "completed"}
    assert done == set(ran[:7])
    ran.clear()
    assert bilevel_run(monkeypatch, *QUICK, "seed=range(12)") == 0
    assert len(ran) == 5
    assert not done & set(ran)
    assert table(capsys.readouterr().out)[-1] == "12 jobs: 12 completed"


def test_a_completed_sweep_runs_nothing_and_shows_the_same_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1", "objective=inner_distance") == 0
    first = table(capsys.readouterr().out)
    assert len(ran) == 2
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1", "objective=inner_distance") == 0
    assert table(capsys.readouterr().out) == first
    assert first[0].split() == ["job", "status", "inner_distance"]
    assert len(ran) == 2


def test_more_outer_steps_continue_completed_jobs_and_other_settings_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    named = ["hydra.sweep.subdir=${hydra.job.num}"]  # the same folders whatever the settings
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1", *named) == 0
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1", "outer_steps=20", *named) == 0
    assert ran == ["0", "1"] * 2
    assert [row["step"] for row in numbers(Path("sweep/1/train.csv"))] == ["10", "20"]
    before = Path("sweep/1/manifest.json").read_text()
    capsys.readouterr()
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,5", "outer_steps=20", *named) == 1
    assert ran[4:] == ["1"]
    assert Path("sweep/1/manifest.json").read_text() == before
    said = capsys.readouterr()
    assert re.search(r"^seed=5 +refused +-  .*\.\.\.$", table(said.out)[2])
    assert "seed=1 there and 5 here" in said.err
    assert notes(SWEEP)["1"]["status"] == "refused"


def test_jobs_named_by_number_keep_their_folders_when_some_are_completed(
    monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    arguments = [*QUICK, "seed=0,1,2", "hydra.sweep.subdir=${hydra.job.num}"]
    assert bilevel_run(monkeypatch, *arguments) == 0
    Path("sweep/2/job.json").unlink()
    ran.clear()
    assert bilevel_run(monkeypatch, *arguments) == 0
    assert ran == ["2"]


def test_the_table_has_status_score_and_reason_of_every_job(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "solver.lr=0.1,1e9,-1", "start=cold") == 1
    shown = table(capsys.readouterr().out)
    assert shown[0].split() == ["job", "status", "value"]
    for line, pattern in zip(
        shown[1:],
        [
            r"solver.lr=0.1 +completed +\d\.\d+",
            r"solver.lr=1000000000.0 +diverged +-  Diverged. At step 10 .* \.\.\.",
            r"solver.lr=-1 +refused +-  GradientDescent needs a finite step size .* \.\.\.",
            r"3 jobs: 1 completed, 1 diverged, 1 refused",
        ],
        strict=True,
    ):
        assert re.fullmatch(pattern, line), line
        assert len(line) <= 120


def test_replicas_have_one_line_with_their_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "method=cg,reverse", "replicas=2") == 0
    shown = table(capsys.readouterr().out)[1]
    ends = [
        float(numbers(path)[-1]["value"]) for path in Path("sweep").glob("*method=cg*/*/eval.csv")
    ]
    assert shown.split() == ["method=cg", "completed", f"{sum(ends) / 2:.4g}"]


def test_a_job_that_is_noted_to_run_and_has_no_process_was_killed(tmp_path: Path) -> None:
    with outcome.noting(tmp_path) as note:
        assert note is not None
        note.write(Outcome("running", "of something"))
        seen = outcome.read(tmp_path)
        assert seen is not None
        assert seen.status == "running"
        with outcome.noting(tmp_path) as other:
            assert other is None
    seen = outcome.read(tmp_path)
    assert seen is not None
    assert (seen.status, seen.code) == ("killed", 1)


NOTES = (
    *(b"", b"{", b"[]", b'{"status": 1}', b"\0" * 50, b"[" * 100_000, b"1" * 5000),
    *(b'{"status": 1, "settings": "", "score": null}', b'{"status": "failed", "settings": 2}'),
    *(b'{"status": "", "settings": "", "score": {"a": 1}}', b'{"score": ["a"], "status": ""}'),
    b'{"status": "failed", "settings": "", "score": ["a", ["b"]]}',
    b'{"status": "failed", "settings": "", "score": null, "error": {}, "code": "1"}',
)


@pytest.mark.parametrize("text", NOTES)
def test_a_torn_note_is_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(text)
    assert outcome.read(tmp_path) is None


def test_a_note_that_is_no_file_is_none_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.json")
    assert outcome.read(tmp_path) is None
    (tmp_path / "folder" / "job.json").mkdir(parents=True)
    assert outcome.read(tmp_path / "folder") is None


def test_a_job_that_another_process_runs_is_left_alone(tmp_path: Path) -> None:
    with outcome.noting(tmp_path):
        assert worker.carry_out(lambda: pytest.fail("it ran"), OmegaConf.create(), tmp_path) is None


def test_an_objective_that_no_score_has_is_refused_at_step_0_and_spoils_no_completed_run(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "seed=0") == 0
    (folder,) = Path("sweep").glob("*seed=0*")
    before = (folder / "manifest.json").read_bytes()
    capsys.readouterr()
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1", "objective=vale") == 2
    said = capsys.readouterr()
    assert said.err.count("objective needs one of value, ") == 3  # of each job, and at the end
    assert "got vale. Did you mean 'value'?" in said.err
    assert "After 10 outer steps" not in said.out
    assert (folder / "manifest.json").read_bytes() == before
    (other,) = Path("sweep").glob("*seed=1*")
    assert json.loads((other / "manifest.json").read_text())["status"] == "failed"
    assert not (other / "train.csv").exists()
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1", "objective=value") == 0


def test_a_job_that_fails_names_its_reason_whole_and_the_file_of_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    words = "it broke " + "very " * 100 + "much"

    def broken(*_: Any) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(entry, "_run", broken)  # where nobody expects it
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1") == 1
    error = capsys.readouterr().err
    for seed in (0, 1):
        (path,) = Path("sweep").glob(f"*seed={seed}*/traceback.txt")
        assert f"  seed={seed}: RuntimeError: {words} The traceback is in {path}.\n" in error
        assert "raise RuntimeError(words)" in path.read_text()


# ---- other processes


Start = Callable[..., "subprocess.Popen[str]"]


def end(sweep: "subprocess.Popen[str]") -> None:
    if sweep.poll() is None:
        os.killpg(sweep.pid, signal.SIGKILL)


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def started(*arguments: str) -> "subprocess.Popen[str]":
            sweep = subprocess.Popen(
                [sys.executable, "-m", "bilevel_cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(sweep)
            stack.callback(end, sweep)
            return sweep

        yield started


def test_a_completed_sweep_is_told_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "seed=0,1") == 0
    program = (
        "import sys; from bilevel_cli.commands import run; "
        "run.main(); assert 'torch' not in sys.modules"
    )
    again = [sys.executable, "-c", program, *QUICK, "seed=0,1"]
    ended = subprocess.run(again, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "2 jobs: 2 completed" in ended.stdout


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


POOL = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep", "-m"]


def rows(seed: int) -> int:
    found = list(Path("sweep").glob(f"*seed={seed}*/train.csv"))
    return len(found[0].read_bytes().splitlines()) if found else 0


@pytest.mark.slow
@joblib
def test_ctrl_c_stops_the_workers_of_joblib_after_their_step_and_the_sweep_continues(
    start: Start,
) -> None:
    long = [*POOL, "task=quadratic", "device=cpu", "save_every=1000000", "seed=0,1,2"]
    sweep = start(*long, "outer_steps=900000")
    wait_for(lambda: min(rows(0), rows(1)) > 3)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    out, error = sweep.communicate(timeout=600)
    assert sweep.returncode == 130
    assert error.count("Stopping") == 1
    assert "Traceback" not in error
    assert table(out)[-1] == "3 jobs: 2 interrupted, 1 missing"
    for seed in (0, 1):
        (folder,) = Path("sweep").glob(f"*seed={seed}*")
        assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
        assert (folder / "checkpoint.pt").exists()


@pytest.mark.slow
@joblib
def test_a_killed_worker_of_joblib_is_named_and_the_jobs_behind_it_are_run(start: Start) -> None:
    sweep = start(*POOL, "task=quadratic", "device=cpu", "outer_steps=900000,10", "seed=0,1")
    wait_for(lambda: min(rows(0), rows(1)) > 3)
    (folder,) = Path("sweep").glob("*outer_steps=900000*seed=0*")
    held = re.match(r"process (\d+)", (folder / "lock").read_text())
    assert held
    os.kill(int(held[1]), signal.SIGKILL)
    out, error = sweep.communicate(timeout=600)
    assert sweep.returncode == 1
    assert re.search(r"^outer_steps=900000 seed=0 +killed +-  Its process was", out, re.MULTILINE)
    # joblib ends the other workers where one dies.
    assert table(out)[-1] == "4 jobs: 2 killed, 2 completed"
    assert "Traceback" not in error


# ---- plugins


def test_a_plugin_that_is_not_there_is_named_with_what_to_install() -> None:
    missing = MissingConfigException("", "hydra/launcher/ray", ["basic"])
    assert explain.explain(missing) == (
        "hydra/launcher=ray needs hydra-ray-launcher, which cannot be imported.\n"
        "pip install 'bilevel-cli[ray]'"
    )
    other = MissingConfigException("", "hydra/launcher/basik", ["basic"])
    assert "Did you mean 'basic'?" in explain.explain(other)


def test_an_option_may_be_named_by_anything() -> None:
    missing = MissingConfigException("", "task/\\k", ["toy"])
    assert explain.explain(missing).startswith("task has no option '\\\\k'")


def test_a_broken_plugin_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setitem(sys.modules, "joblib", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "hydra_plugins.hydra_joblib_launcher._core", raising=False)
    assert bilevel_run(monkeypatch, *POOL, "task=quadratic", "seed=0,1") == 2
    error = capsys.readouterr().err
    assert "bilevel-run: The plugin hydra-joblib-launcher cannot be used: import of joblib" in error
    assert error.endswith("pip install 'bilevel-cli[parallel]'\n")
    assert "Traceback" not in error

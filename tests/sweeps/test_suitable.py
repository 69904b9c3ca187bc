"""Combinations that cannot work are refused before the first job runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import bilevel_run
from omegaconf import DictConfig
from sweeping import SMALL, notes, steps

from bilevel_cli.config import objects
from bilevel_cli.runs import build, entry
from bilevel_cli.sweeps import kinds, suitable
from bilevel_cli.sweeps.suitable import Place

Captured = pytest.CaptureFixture[str]
SWEEP = Path("sweep")
DIR = f"hydra.sweep.dir={SWEEP}"
RUN = [*SMALL, DIR, "outer_steps=10"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the runs that are built, and "posed" for each task, in their order."""
    found: list[str] = []
    make, pose = build.build, objects.posed

    def built(config: DictConfig, *given: Any, **named: Any) -> Any:
        found.append(str(config.method._target_).rpartition(".")[2])
        return make(config, *given, **named)

    def posed(*given: Any) -> Any:
        found.append("posed")
        return pose(*given)

    monkeypatch.setattr(build, "build", built)
    monkeypatch.setattr(objects, "posed", posed)
    return found


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, built: list[str]) -> list[str]:
    """The same, with "run" before what belongs to a job."""
    real = entry.run

    def run(*given: Any) -> float | None:
        built.append("run")
        return real(*given)

    monkeypatch.setattr(entry, "run", run)
    return built


def test_a_method_that_cannot_serve_the_task_is_refused_before_the_first_job_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    assert bilevel_run(monkeypatch, *RUN, "method=cg,direct,reverse", "seed=0,1") == 1
    # Once for both seeds, on one task; the first combination is left to its first job.
    assert ran[:4] == ["posed", "Direct", "Reverse", "run"]
    assert ran.count("run") == 4
    told = capsys.readouterr()
    assert told.out.index("Looking whether 2 combinations") < told.out.index("Job 1 of 6")
    reason = "Direct needs an outer loss that contains the outer parameters"
    assert f"bilevel-run: method=direct (2 jobs): {reason}" in told.err
    assert f"  method=direct (2 jobs): {reason}" in told.err  # again at the end
    assert "6 jobs: 4 completed, 2 refused" in told.out
    found = notes(SWEEP)
    assert [note["status"] for name, note in found.items() if "direct" in name] == ["refused"] * 2
    assert len(steps(SWEEP)) == 4
    for path in SWEEP.glob("*direct*/manifest.json"):
        manifest = json.loads(path.read_text())
        assert manifest["error"].startswith(reason)
        assert (manifest["status"], manifest["choices"]["method"]) == ("failed", "direct")


def test_a_wrong_number_is_refused_before_the_first_job_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    assert bilevel_run(monkeypatch, *RUN, "solver.lr=0.1,-1", "seed=0,1") == 1
    assert ran.count("run") == 2
    error = capsys.readouterr().err
    assert "bilevel-run: solver.lr=-1 (2 jobs): GradientDescent needs a finite step size" in error


def test_a_sweep_of_which_nothing_can_work_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    assert bilevel_run(monkeypatch, *RUN, "solver.lr=-1,-2") == 2
    assert "run" not in ran


def test_seeds_of_one_combination_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    assert bilevel_run(monkeypatch, *RUN, "seed=range(3)") == 0
    assert ran == ["run", "Reverse", "posed"] * 3
    assert "Looking" not in capsys.readouterr().out


def test_what_does_not_fit_into_memory_is_refused_where_the_jobs_run_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    given = [*RUN, "method=exact", "task.inner_dim=3,500", "device.memory_budget=1MB"]
    assert bilevel_run(monkeypatch, *given) == 1
    assert (
        capsys.readouterr().err.count("and its factors, got 1 MB") == 2
    )  # before the first job, and at the end
    with monkeypatch.context() as patch:  # as if a cluster would run them
        patch.setattr(kinds, "place", lambda *_: Place(False, False, True))
        assert bilevel_run(monkeypatch, *given) == 1
    assert "Job 2 of 2" in capsys.readouterr().out


def test_after_a_while_the_rest_is_left_to_the_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[str]
) -> None:
    monkeypatch.setattr(suitable, "LONGEST", 0.0)
    assert bilevel_run(monkeypatch, *RUN, "method=cg,direct,none") == 1
    assert ran[0] == "run"
    said = capsys.readouterr()
    assert "2 of them are left to their jobs" in said.out
    assert "2 completed, 1 refused" in said.out


@pytest.mark.slow
def test_a_completed_sweep_of_several_combinations_is_told_without_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [*RUN, "method=cg,reverse", "seed=0,1"]
    assert bilevel_run(monkeypatch, *settings) == 0
    program = (
        "import sys; from bilevel_cli.commands import run; "
        "run.main(); assert 'torch' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *settings], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "4 jobs: 4 completed" in ended.stdout

"""The folders of jobs: the same for a longer sweep, and one for each job."""

from pathlib import Path

import pytest
from commands import bilevel_run
from omegaconf import OmegaConf
from sweeping import SMALL, notes, steps

from bilevel_cli.errors import UsageError
from bilevel_cli.sweeps.job import Job
from bilevel_cli.sweeps.job_folders import check_apart

Captured = pytest.CaptureFixture[str]
SWEEP = Path("sweep")
DIR = f"hydra.sweep.dir={SWEEP}"
# As Hydra names folders by all settings: those of SMALL, in the order of the alphabet.
NAMED = "device=cpu,inner_steps=3,seed={},task.inner_dim=3,task=quadratic"
WITH_STEPS = "device=cpu,inner_steps=3,outer_steps={},seed={},task.inner_dim=3,task=quadratic"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sweep_with_more_outer_steps_goes_on_in_the_same_folders(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for outer_steps, more in (("10", ()), ("20", ("budget=1000", "objective=value"))):
        given = [*SMALL, DIR, "seed=0,1", f"outer_steps={outer_steps}", *more]
        assert bilevel_run(monkeypatch, *given) == 0
    assert capsys.readouterr().out.count("Continuing after step 10") == 2
    assert steps(SWEEP) == {NAMED.format(seed): [10, 20] for seed in (0, 1)}


def test_settings_that_differ_between_jobs_name_their_folders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bilevel_run(monkeypatch, *SMALL, DIR, "seed=0", "outer_steps=10,20") == 0
    assert steps(SWEEP) == {WITH_STEPS.format(10, 0): [10], WITH_STEPS.format(20, 0): [10, 20]}


def test_a_sweep_whose_folders_an_earlier_version_named_goes_on_in_them(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, *SMALL, DIR, "seed=0,1", "outer_steps=10") == 0
    old = [WITH_STEPS.format(10, seed) for seed in (0, 1)]
    for seed in (0, 1):
        (SWEEP / NAMED.format(seed)).rename(SWEEP / old[seed])
    capsys.readouterr()
    assert bilevel_run(monkeypatch, *SMALL, DIR, "seed=0,1", "outer_steps=10") == 0
    assert "2 of 2 jobs are completed" in capsys.readouterr().out
    assert bilevel_run(monkeypatch, *SMALL, DIR, "seed=0,1", "outer_steps=20") == 0
    assert steps(SWEEP) == {name: [10, 20] for name in old}


def test_of_a_sweep_over_outer_steps_no_folder_is_taken_for_a_longer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bilevel_run(monkeypatch, *SMALL, DIR, "seed=0", "outer_steps=10,20") == 0
    before = steps(SWEEP)
    assert bilevel_run(monkeypatch, *SMALL, DIR, "seed=0", "outer_steps=30") == 0
    assert steps(SWEEP) == {**before, NAMED.format(0): [10, 20, 30]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["seed=0,1", "hydra.sweep.subdir=one"], "sweep/one for seed=0 and for seed=1"),
        (["seed=0,1", "solver.lr=0.1,0.2", "hydra.sweep.subdir=${seed}"], "lr=0.1 and for solver"),
        (["seed=0,1,0"], "needs each job once"),
    ],
)
def test_two_jobs_of_one_folder_are_refused_before_any_work(
    settings: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, *SMALL, DIR, "outer_steps=10", *settings) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error) <= 400
    assert not notes(SWEEP)


def test_a_search_that_comes_to_the_same_job_again_runs_it_once() -> None:
    def job(name: str, settings: str) -> Job:
        return Job(["seed=0"], OmegaConf.create(), Path("sweep", name), name, settings)

    first, again, other = job("a", "1"), job("a", "1"), job("a", "2")
    assert [one is first for one in check_apart([first, again], [], listed=False)] == [True]
    assert [one is again for one in check_apart([again], [first], listed=False)] == [True]
    with pytest.raises(UsageError, match="a folder for each job"):
        check_apart([other], [first], listed=False)

"""Searches by Optuna: what is refused, what a study remembers, and how one ends."""

import math
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import bilevel_run, numbers
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from sweeping import notes, of_each_run

from bilevel_cli.config.options import CONF
from bilevel_cli.errors import UsageError
from bilevel_cli.machine import signals
from bilevel_cli.runs import entry
from bilevel_cli.sweeps import search
from bilevel_cli.sweeps.space import Space

SWEEP = Path("sweep")
QUICK = ["-m", "task=quadratic", "device=cpu", "outer_steps=10", f"hydra.sweep.dir={SWEEP}"]
QUICK += ["task.inner_dim=3", "inner_steps=3", "objective=value", "hydra/sweeper=optuna"]
QUICK += ["hydra.sweeper.sampler.n_startup_trials=2"]
RANGE = "solver.lr=tag(log, interval(0.01, 0.2))"
Captured = pytest.CaptureFixture[str]
optuna = pytest.mark.skipif(not find_spec("optuna"), reason="needs optuna")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The step sizes of the trials that are run from now on."""
    return of_each_run(monkeypatch, lambda config, _: config.solver.lr)


def trials(folder: str = "sweep", name: str = "bilevel") -> list[tuple[str, Any, Any]]:
    """State, settings and value of each trial of a study, as Optuna itself reads them."""
    from optuna import load_study

    study = load_study(study_name=name, storage=f"sqlite:///{folder}/study.db")
    return [(trial.state.name, trial.params, trial.value) for trial in study.trials]


# ---- what is refused before any work


@optuna
@pytest.mark.parametrize(
    ("objective", "wrong", "reason"),
    [
        (None, {}, r"A search needs objective=\.\.\., .* got null\. Name one"),
        (
            "value",
            {"direction": ["minimize", "maximize"]},
            r"needs minimize or maximize, got \['minimize', 'maximize'\]: a search has one obj",
        ),
        ("value", {"direction": "up"}, "needs minimize or maximize, got up"),
        ("value", {"direction": "maximize"}, "objective=value is better when it is lower"),
        (
            "validation_accuracy",
            {"direction": "minimize"},
            "objective=validation_accuracy is better when it is higher, as the task says",
        ),
        ("value", {"n_trials": 0}, "n_trials needs a whole number from 1 on, got 0"),
        ("value", {"n_jobs": "many"}, "n_jobs needs a whole number from 1 on, got 'many'"),
        ("value", {"max_failure_rate": 2}, "max_failure_rate needs a number from 0 to 1, got 2"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    objective: str | None, wrong: dict[str, Any], reason: str
) -> None:
    node: Any = OmegaConf.load(CONF / "hydra/sweeper/optuna.yaml")
    given = {str(name): node[name] for name in node if name[0] != "_" and name != "defaults"}
    sweeper = search.Search(**{**given, "sampler": OmegaConf.create({}), **wrong})
    config = OmegaConf.create({"objective": objective, "task": None})
    context: Any = None
    with pytest.raises(UsageError, match=reason) as refused:
        sweeper.setup(hydra_context=context, task_function=context, config=config)
    assert len(str(refused.value)) <= 400


@optuna
def test_a_refused_search_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[float]
) -> None:
    for arguments, reason in (
        ([RANGE, "objective=null"], "A search needs objective=..."),
        (["solver.lr=0.1"], "A search needs settings to search, got none"),
        ([RANGE, "+hydra.sweeper.sampler.x=1"], "hydra.sweeper.sampler: TypeError: "),
        ([RANGE, "hydra.sweeper.storage=nonsense"], "hydra.sweeper.storage cannot be used: Could"),
    ):
        assert bilevel_run(monkeypatch, *QUICK, *arguments) == 2
        assert reason in capsys.readouterr().err
    assert ran == []
    assert not list(Path().rglob("job.json"))


@optuna
def test_a_task_of_a_user_says_what_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gains.py").write_text(
        "from bilevel_cli import Task\n"
        "MORE = ('*gain',)\n"
        "class Counted(Task):\n    higher_is_better = ('*profit',)\n"
        "class Computed(Task):\n    higher_is_better = (*MORE, '*profit')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, objective, way in (
        ("Counted", "profit", "maximize"),
        ("Counted", "accuracy", "minimize"),
        ("Computed", "gain", "maximize"),
        ("Computed", "loss", "minimize"),
    ):
        task = {"_target_": f"gains.{name}"}
        config = OmegaConf.create({"task": task, "objective": objective})
        assert search.direction(config, None) == way


def test_a_search_without_optuna_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[float]
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    for there, shown in ((absent, "which is not installed"), (lambda name: "2.10.1", "got 2.10.1")):
        monkeypatch.setattr(metadata, "version", there)
        assert bilevel_run(monkeypatch, "experiment=hpo_tpe", "hydra.sweep.dir=sweep") == 2
        said = capsys.readouterr().err
        assert shown in said
        assert "pip install 'bilevel-cli[optuna]'" in said
        assert not Path("sweep").exists()


def test_a_range_without_a_search_says_how_to_search_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for more in (["-m"], []):
        arguments = [*more, "task=quadratic", "hydra.sweep.dir=sweep", "solver.lr=interval(0.1,1)"]
        assert bilevel_run(monkeypatch, *arguments) == 2
        said = capsys.readouterr().err
        assert "hydra/sweeper=optuna" in said
        assert "INTERVAL_SWEEP" not in said


# ---- what is searched


@optuna
@pytest.mark.parametrize(
    ("override", "kind", "low", "high"),
    [
        ("x=interval(0.5,2)", "FloatDistribution", 0.5, 2),
        ("x=int(interval(1,9))", "IntDistribution", 1, 9),
        ("x=range(1,10,4)", "IntDistribution", 1, 9),  # a range of Hydra's has no end in it
        ("x=range(9,0,-4)", "IntDistribution", 1, 9),
        ("x=range(0.5,2.0,0.5)", "FloatDistribution", 0.5, 1.5),
    ],
)
def test_a_range_is_searched_from_its_first_to_its_last_value(
    override: str, kind: str, low: float, high: float
) -> None:
    found: Any = Space.of([override], None).distributions()["x"]
    assert (type(found).__name__, found.low, found.high) == (kind, low, high)
    listed = OverridesParser.create().parse_overrides([override])[0]
    if listed.is_range_sweep():
        assert {low, high} <= set(listed.sweep_iterator())


@optuna
def test_a_range_that_cannot_be_searched_is_refused_by_its_setting() -> None:
    space = Space.of(["solver.lr=tag(log,interval(0,1))"], None)
    with pytest.raises(UsageError, match=r"solver.lr needs a range .* got .*interval\(0,1\)"):
        space.distributions()


@optuna
def test_the_values_of_a_list_reach_the_command_line_as_they_were_typed() -> None:
    space = Space.of(["a=1", "~b", "x='p q',null,true,[1,2]", "+y.z=interval(0,1)", "a=2"], None)
    values: Any = space.distributions()["x"]
    assert space.shared == ["a=2", "~b"]
    for choice, text in zip(values.choices, ["'p q'", "null", "True", "[1,2]"], strict=True):
        assert space.overrides({"x": choice, "y.z": 0.5})[2:] == [f"x={text}", "+y.z=0.5"]


@optuna
@pytest.mark.parametrize(
    "sampler", ["tpe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("random", "gp"))]
)
def test_a_search_ends_with_the_best_of_its_trials(
    sampler: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    sampled = f"hydra/sweeper/sampler={sampler}"
    own = [one for one in QUICK if "startup" not in one or sampler != "random"]
    assert bilevel_run(monkeypatch, *own, sampled, RANGE, "hydra.sweeper.n_trials=4") == 0
    found = trials()
    assert [state for state, *_ in found] == ["COMPLETE"] * 4
    # The value of a trial is what its job wrote last.
    written = sorted(float(numbers(path)[-1]["value"]) for path in Path().glob("*/*/eval.csv"))
    assert sorted(value for *_, value in found) == written
    result = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert result["best_value"] == written[0]
    best = next(params for _, params, value in found if value == written[0])
    assert result["best_params"] == best
    assert "4 jobs: 4 completed" in capsys.readouterr().out


@optuna
@pytest.mark.slow
def test_an_accuracy_is_maximised_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["experiment=hpo_tpe", "objective=validation_accuracy", "data.train=20"]
    given += ["inner_steps=3", "hydra.sweeper.n_trials=3", "hydra.sweep.dir=sweep", "device=cpu"]
    assert bilevel_run(monkeypatch, *given) == 0
    result = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert result["best_value"] == max(value for *_, value in trials())


# ---- what a study remembers


@optuna
def test_a_study_in_a_database_goes_on_in_another_folder(
    monkeypatch: pytest.MonkeyPatch, ran: list[float], capsys: Captured
) -> None:
    stored = ["hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=s1", RANGE]
    assert bilevel_run(monkeypatch, *QUICK, *stored, "hydra.sweeper.n_trials=2") == 0
    more = [*stored, "hydra.sweep.dir=other", "hydra.sweeper.n_trials=3"]
    assert bilevel_run(monkeypatch, *QUICK, *more) == 0
    assert len(ran) == 3
    assert [params["solver.lr"] for _, params, _ in trials(".", "s1")] == ran


@optuna
@pytest.mark.slow
def test_a_search_that_is_stopped_has_the_trials_of_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch, ran: list[float], capsys: Captured
) -> None:
    count = [RANGE, "hydra.sweeper.n_trials=5"]
    assert bilevel_run(monkeypatch, *QUICK, *count, "hydra.sweep.dir=whole") == 0
    whole = ran.copy()
    ran.clear()
    real = entry.run

    def run(*given: Any) -> float | None:
        if len(ran) in (2, 4):  # in the third trial, and once more in the fourth
            ran.append(math.nan)
            raise signals.Interrupted(signal.SIGINT)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(entry, "run", run)
        assert bilevel_run(monkeypatch, *QUICK, *count) == 130
        assert bilevel_run(monkeypatch, *QUICK, *count) == 130
    assert bilevel_run(monkeypatch, *QUICK, *count) == 0
    assert [lr for lr in ran if lr == lr] == whole
    assert trials() == trials("whole")
    # The table has the trials of the commands before, too.
    assert "5 jobs: 5 completed" in capsys.readouterr().out
    ran.clear()
    assert bilevel_run(monkeypatch, *QUICK, *count) == 0
    assert ran == []


@optuna
@pytest.mark.slow
def test_a_study_of_other_settings_is_refused_by_their_names(
    monkeypatch: pytest.MonkeyPatch, ran: list[float], capsys: Captured
) -> None:
    given = [*QUICK, RANGE, "hydra.sweeper.n_trials=1"]
    assert bilevel_run(monkeypatch, *given) == 0
    for change, shown in (
        (["outer_steps=20"], "outer_steps=10 there and 20 here"),
        (["solver.lr=interval(0.01,1)"], "interval(0.01, 0.2)) there and interval(0.01,1) here"),
        (["task.inner_dim=interval(2,4)"], "task.inner_dim=3 there and interval(2,4) here"),
    ):
        assert bilevel_run(monkeypatch, *given, *change) == 2
        assert shown in capsys.readouterr().err
    assert len(ran) == 1


@optuna
@pytest.mark.slow
def test_a_study_of_another_program_is_refused(
    monkeypatch: pytest.MonkeyPatch, ran: list[float], capsys: Captured
) -> None:
    from optuna import create_study

    Path("sweep").mkdir()
    study = create_study(storage="sqlite:///sweep/study.db", study_name="bilevel")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert bilevel_run(monkeypatch, *QUICK, RANGE) == 2
    assert "holds trials of another program" in capsys.readouterr().err
    assert ran == []


@optuna
@pytest.mark.slow
def test_a_folder_may_have_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "it's {100}% #1? a"
    given = [*QUICK, RANGE, "hydra.sweeper.n_trials=1", f'hydra.sweep.dir="{folder}"']
    assert bilevel_run(monkeypatch, *given) == 0
    assert Path(folder, "study.db").is_file()


# ---- how it ends


@optuna
def test_trials_that_all_diverge_end_with_the_reasons_of_the_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    given = [*QUICK, "start=cold", "solver.lr=interval(1.0e8,1.0e9)", "hydra.sweeper.n_trials=3"]
    assert bilevel_run(monkeypatch, *given) == 1
    said = capsys.readouterr()
    assert "3 jobs: 3 diverged" in said.out
    assert said.err.count("Diverged. At step") >= 3
    assert "Traceback" not in said.err
    assert "No trials are completed" not in said.err
    assert [state for state, *_ in trials()] == ["PRUNED"] * 3
    assert not Path("sweep/optimization_results.yaml").exists()
    # Diverged is how they ended: the same command has nothing to run.
    before = notes(SWEEP)
    assert bilevel_run(monkeypatch, *given) == 1
    assert notes(SWEEP) == before


@optuna
@pytest.mark.slow
def test_a_search_stops_where_more_fail_than_are_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    given = [*QUICK, "start=cold", "solver.lr=interval(1.0e8,1.0e9)", "hydra.sweeper.n_trials=9"]
    given += ["hydra.sweeper.n_jobs=2", "hydra.sweeper.max_failure_rate=0.5"]
    assert bilevel_run(monkeypatch, *given) == 1
    assert "2 jobs: 2 diverged" in capsys.readouterr().out


@optuna
@pytest.mark.slow
def test_a_refused_trial_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ran: list[float]
) -> None:
    given = [*QUICK, "start=cold", "solver.lr=interval(-2.0,-1.0)", "hydra.sweeper.n_trials=9"]
    assert bilevel_run(monkeypatch, *given) in (1, 2)
    assert "needs a finite step size" in capsys.readouterr().err
    assert len(ran) <= 1


@optuna
@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher")),
    reason="needs hydra-joblib-launcher",
)
def test_a_study_of_twenty_trials_is_killed_twice_and_finishes_under_joblib() -> None:
    command = [sys.executable, "-m", "bilevel_cli", *QUICK, RANGE, "hydra.sweeper.n_trials=20"]
    command += ["hydra.sweeper.n_jobs=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    command += ["outer_steps=200", "save_every=20"]

    def completed() -> int:
        return sum(note["status"] == "completed" for note in notes(SWEEP).values())

    for least in (4, 11):
        child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while completed() < least:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        # The whole group: the command, and the workers that are in the midst of trials.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    found = trials()
    assert [state for state, *_ in found] == ["COMPLETE"] * 20
    assert len({params["solver.lr"] for _, params, _ in found}) == 20
    assert len(notes(SWEEP)) == 20  # no trial was begun twice in two folders
    # The same as of a search that nobody disturbed.
    assert subprocess.run([*command, "hydra.sweep.dir=whole"]).returncode == 0
    assert trials("whole") == found

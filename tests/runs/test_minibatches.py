"""Minibatches of one inner problem, shared by several processes: a run by them is that of one."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import bilevel_run
from configs import options, small
from outcomes import check_alike as check_runs
from outcomes import manifest, run
from ranking import Command

from bilevel_cli.config.options import CONF
from bilevel_cli.core.method import Estimate
from bilevel_cli.machine.minibatches import Minibatches
from bilevel_cli.machine.ranks import ALONE
from bilevel_cli.runs.experiment import Machine

# Three processes would have batches of 2, 3 and 3 examples.
RIDGE = ["task=ridge", "data=diabetes", *small("ridge"), "inner_steps=2"]
RIDGE += ["task.batch_size=7", "task.outer_batch_size=8"]


def divided(commands: list[list[str]], count: int = 2, steps: int = 3) -> list[dict[str, Any]]:
    script = str(Path(__file__).parents[1] / "helpers" / "dividing.py")
    given = [sys.executable, script, str(count), str(steps), json.dumps(commands)]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_alike(found: list[dict[str, Any]]) -> None:
    # Evolution strategies divide the rounding of losses by sigma^2, 1e-4 by default.
    assert all(one["gap"] < (1e-9 if one["perturbs"] else 1e-10) for one in found), found
    assert not any(one["apart"] for one in found)


def test_processes_find_what_one_finds() -> None:
    every = options("method")
    some = [[*RIDGE, f"method={name}"] for name in ("sama", "bvfsm", "es")]
    found = divided([*some, [*RIDGE, f"method={every[0]}"]])
    check_alike(found)
    assert not any(one["refused"] for one in found[:-1])


def test_a_step_in_which_processes_exchange_is_not_captured() -> None:
    machine = Machine(torch.device("cpu"), None, "compile", Minibatches(ALONE))
    with pytest.raises(ValueError, match=r"exchange in the midst .* got device\.capture=compile"):
        machine.captured(lambda outer, data, carry: Estimate({}, torch.zeros(()), carry, {}))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_find_what_one_finds_by_every_method_of_first_derivatives(count: int) -> None:
    names = options("method")
    found = dict(zip(names, divided([[*RIDGE, f"method={n}"] for n in names], count), strict=True))
    check_alike(list(found.values()))
    print({name: one["gap"] for name, one in found.items() if not one["refused"]})
    # What core/test_joined.py finds for each method by itself.
    refused = {name for name, one in found.items() if one["refused"]}
    assert all("takes products" in found[name]["refused"] for name in refused - {"direct"})
    assert len(names) - len(refused) >= 16


@pytest.fixture
def tokens(tmp_path: Path) -> list[str]:
    """A transformer on tokens with a frozen body and adapters of low rank, as a user has it."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "adapted.yaml").write_text(
        "# adapters\n_target_: adapted.Text\n_partial_: true\nvocabulary: 30\nwidth: 8\nrank: 2\n"
    )
    numbers = np.random.default_rng(0)
    y = numbers.integers(0, 2, 60)
    x = numbers.integers(0, 15, (60, 6)) + 15 * y[:, None] * (numbers.random((60, 6)) < 0.7)
    np.savez(tmp_path / "texts.npz", x=x, y=y)
    given = ["model=adapted", "data=npz", f"data.path={tmp_path / 'texts.npz'}", "inner_steps=3"]
    return [f"hydra.searchpath=[{tmp_path / 'conf'}]", *given, "task.batch_size=9"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reweight", "hpo"])
def test_adapters_of_a_frozen_transformer_are_trained_as_by_one_process(
    task: str, tokens: list[str]
) -> None:
    names = options("method")
    commands = [[f"task={task}", *tokens, f"method={name}"] for name in names]
    found = dict(zip(names, divided(commands, steps=2), strict=True))
    check_alike(list(found.values()))
    served = {name: one["gap"] for name, one in found.items() if not one["refused"]}
    print(task, served)
    print({name: one["refused"] for name, one in found.items() if one["refused"]})
    assert len(served) >= 13


@pytest.mark.slow
def test_a_task_is_shared_or_refused_with_a_reason() -> None:
    names = options("task")
    commands = [[f"task={n}", *small(n), "inner_steps=2", "method=darts"] for n in names]
    found = dict(zip(names, divided(commands), strict=True))
    check_alike([one for one in found.values() if not one["refused"]])
    print({name: one["refused"] or one["gap"] for name, one in found.items()})
    assert {n for n, one in found.items() if not one["refused"]} >= {"hpo", "logistic", "reweight"}


LONG = [*RIDGE, "method=f2sa", "device=cpu", "device.dtype=float64", "outer_steps=40"]
LONG += ["log_every=1", "eval_every=20", "save_every=10", "retrain=5"]
LONG += ["metrics=[hypergradient_gap]"]


@pytest.mark.slow
def test_a_run_is_that_of_one_process_however_often_it_stops_and_by_whom_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"signum": signal.SIGTERM, "ranks": [1], "rows": 12}
    killed: dict[str, Any] = {"signum": signal.SIGKILL, "ranks": [1], "rows": 12}
    begun = str(tmp_path / "begun")
    assert bilevel_run(monkeypatch, *LONG, f"hydra.run.dir={tmp_path / 'alone'}") == 0
    assert bilevel_run(monkeypatch, *LONG[:-1], "outer_steps=15", f"hydra.run.dir={begun}") == 0
    found = run(
        [
            Command(str(tmp_path / "whole"), LONG),
            Command(str(tmp_path / "told"), LONG, **told),
            Command(str(tmp_path / "told"), LONG),
            Command(str(tmp_path / "killed"), LONG, **killed),
            Command(str(tmp_path / "killed"), LONG, count=3),
            Command(str(tmp_path / "left"), LONG, **told),
            Command(begun, LONG[:-1]),
        ]
    )
    ends = [[0, 0], [143, 143], [0, 0], [1, -signal.SIGKILL], [0, 0, 0], [143, 143], [0, 0]]
    assert [one["codes"] for one in found] == ends
    assert bilevel_run(monkeypatch, *LONG, f"hydra.run.dir={tmp_path / 'left'}") == 0
    (tmp_path / "killed" / "traceback.txt").unlink(missing_ok=True)
    check_runs(tmp_path / "alone", tmp_path / "whole", 1e-10)
    check_runs(tmp_path / "whole", tmp_path / "told", 0)
    check_runs(tmp_path / "whole", tmp_path / "killed", 1e-9)
    check_runs(tmp_path / "whole", tmp_path / "left", 1e-9)
    assert (manifest(tmp_path / "whole")["processes"], manifest(Path(begun))["status"]) == (
        2,
        "completed",
    )


@pytest.mark.slow
def test_a_loss_that_fails_in_one_process_ends_all_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    ridge = (CONF / "task" / "ridge.yaml").read_text()
    known = "bilevel_cli.tasks.hyperparameters.linear_model.RidgeRegression"
    assert known in ridge
    path = tmp_path / "conf" / "task" / "frail.yaml"
    path.write_text(ridge.replace(known, "frail.FrailRidge"))
    given = [f"--config-dir={tmp_path / 'conf'}", *LONG, "task=frail"]
    (outcome,) = run([Command(str(tmp_path / "frail"), given)])
    assert outcome["codes"] == [1, 1]
    found = manifest(tmp_path / "frail")
    assert found["status"] == "oom"
    assert "On rank 1: " in (tmp_path / "frail" / "traceback.txt").read_text()


@pytest.mark.slow
def test_an_outer_step_that_fails_goes_back_in_all_processes_or_ends_them_soon(
    tmp_path: Path,
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    path = tmp_path / "conf" / "method" / "frail.yaml"
    path.write_text("_target_: frail.FrailDarts\nradius: 0.01\nranks: [0, 1]\n")
    given = [f"--config-dir={tmp_path / 'conf'}", *LONG[:-1], "method=frail", "save_every=2"]
    given += ["on_divergence=restore", "outer_steps=10"]
    names = {"all": "[0,1]", "first": "[0]", "other": "[1]"}
    found = run(
        [
            Command(str(tmp_path / name), [*given, f"method.ranks={ranks}"], patience=60)
            for name, ranks in names.items()
        ]
    )
    assert [one["codes"] for one in found] == [[0, 0], [1, 1], [1, 1]]
    ends = {name: manifest(tmp_path / name) for name in names}
    assert (ends["all"]["status"], ends["all"]["restores"]) == ("completed", 1)
    assert ends["first"]["error"].startswith("_LinAlgError: frail, on purpose")
    assert "got one that ended: rank 1, " in ends["other"]["error"]
    assert "frail, on purpose" in ends["other"]["error"]

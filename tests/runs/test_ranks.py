"""Ranks: a run by several processes is that of one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import bilevel_run
from configs import configured
from outcomes import check_alike, manifest, run
from ranking import Command

from bilevel_cli.config.objects import parts
from bilevel_cli.config.resolved import resolved
from bilevel_cli.errors import UsageError
from bilevel_cli.machine import memory
from bilevel_cli.machine.processes import Processes
from bilevel_cli.runs import build

# Three episodes, so that two processes have unlike shares.
RUN = ["task=meta", "model=linear", "data=digits", "task.episodes=3", "task.eval_episodes=4"]
RUN += ["device=cpu", "device.dtype=float64", "inner_steps=3", "log_every=1"]
QUICK = [*RUN, "outer_steps=4", "eval_every=2", "save_every=2"]
LONG = [*RUN, "outer_steps=40", "eval_every=20", "save_every=10", "method=iaptt"]
SHARED = ["task=reweight", "data=digits", "method=darts", "inner_steps=1", "task.batch_size=32"]
METHODS = {
    "reverse": ["method=reverse", "metrics=[hypergradient_gap]"],
    "imaml": ["method=imaml"],
    "reptile": ["method=reptile"],
    # Its steps diverge, and it goes back until it gives up.
    "restore": ["method=reverse", "solver.lr=1e200", "on_divergence=restore"],
}
KILLED = "RankLost: A run needs all its 2 processes, got one that was killed or hangs."
pytestmark = pytest.mark.usefixtures("digits_read_once")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ended(root: Path) -> dict[str, dict[str, Any]]:
    """How runs by several processes ended, by their names; their folders are below `root`."""
    options = root / "conf" / "method" / "frail.yaml"
    options.parent.mkdir(parents=True)
    options.write_text("_target_: frail.Frail\nwindow: null\nsegment: null\nwhere: estimate\n")
    frail = [f"--config-dir={root / 'conf'}", *QUICK, "method=frail"]
    plans: list[tuple[str, list[str], dict[str, Any]]] = [
        *((name, [*QUICK, *method], {}) for name, method in METHODS.items()),
        ("frail", frail, {}),
        ("frail early", [*frail, "method.where=${hydra:job.name}", "hydra.job.name=check"], {}),
        ("frail device", [*frail, "method.where=device"], {}),
        ("long", LONG, {}),
        ("told", LONG, {"signum": signal.SIGTERM, "ranks": [1], "rows": 12}),
        ("told, continued", LONG, {}),
        ("killed", LONG, {"signum": signal.SIGKILL, "ranks": [1], "rows": 12}),
        ("killed, continued", LONG, {"count": 3}),
        ("first killed", LONG, {"signum": signal.SIGKILL, "ranks": [0], "rows": 2}),
    ]
    commands = [
        Command(str(root / name.partition(",")[0]), overrides, **more)
        for name, overrides, more in plans
    ]
    return dict(zip([name for name, *_ in plans], run(commands), strict=True))


def torchrun(*overrides: str, processes: int = 2) -> list[str]:
    """The command, which asks for a port of the loopback interface by itself."""
    script = str(Path(sys.executable).with_name("torchrun"))
    launch = ["--standalone", f"--nproc-per-node={processes}", "-m", "bilevel_cli"]
    return [script, *launch, *overrides]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_find_the_numbers_of_one(
    name: str, ended: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = root / "alone" / name
    code = bilevel_run(monkeypatch, *QUICK, *METHODS[name], f"hydra.run.dir={alone}")
    assert ended[name]["codes"] == [code, code]
    check_alike(alone, root / name, 1e-12)
    one, two = manifest(alone), manifest(root / name)
    assert (one["processes"], two["processes"]) == (1, 2)
    kept = ("status", "restores", "diverged_at", "doubts", "settings_sha256")
    assert {name: one[name] for name in kept} == {name: two[name] for name in kept}


@pytest.mark.slow
def test_only_the_first_process_writes(ended: dict[str, Any], root: Path) -> None:
    assert ended["reptile"]["codes"] == [0, 0]
    assert "Wrote" in (root / "reptile.rank0.out").read_text()
    assert (root / "reptile.rank1.out").read_text() == ""


def test_torchrun_leaves_one_folder_named_by_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*QUICK, "method=iaptt"]
    done = subprocess.run(torchrun(*given), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.rglob("manifest.json")
    assert {p.name for p in tmp_path.iterdir()} == {"outputs"}
    assert folder.parent.parent == tmp_path / "outputs" / "meta-iaptt"
    assert bilevel_run(monkeypatch, *given, f"hydra.run.dir={tmp_path / 'alone'}") == 0
    check_alike(tmp_path / "alone", folder.parent, 1e-12)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_told(ended: dict[str, Any], root: Path) -> None:
    assert ended["frail"]["codes"] == [1, 1]
    found = manifest(root / "frail")
    assert found["status"] == "diverged"
    assert "no finite solution: frail, on purpose" in found["error"]


@pytest.mark.slow
def test_a_process_that_fails_by_itself_says_why(ended: dict[str, Any], root: Path) -> None:
    assert ended["frail early"]["codes"] == [1, 1]
    found = manifest(root / "frail early")
    assert found["status"] == "failed"
    assert "got one that ended: rank 1, " in found["error"]
    assert "frail, on purpose" in found["error"]
    assert "frail.py" in (root / "frail early" / "traceback.txt").read_text()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_they_continue_bit_for_bit(
    ended: dict[str, Any], root: Path
) -> None:
    assert ended["told"]["codes"] == [143, 143]  # those of a process that stopped between two steps
    assert ended["told, continued"]["codes"] == [0, 0]
    assert manifest(root / "told")["first_step"] >= 12
    check_alike(root / "long", root / "told", 0)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_another_number_of_them_continues_it(
    ended: dict[str, Any], root: Path
) -> None:
    assert ended["killed"]["codes"] == [1, -signal.SIGKILL]
    # Not half an hour later: after ten minutes an alarm would have ended both.
    assert "RankLost: A run needs all its 2 processes" in (root / "killed.rank0.out").read_text()
    assert ended["killed, continued"]["codes"] == [0, 0, 0]
    assert manifest(root / "killed")["first_step"] >= 10
    assert not (root / "killed" / "traceback.txt").exists()  # of the failure, which is over
    # Sums of three shares round otherwise than those of two, and forty steps amplify it.
    check_alike(root / "long", root / "killed", 1e-9)


@pytest.mark.slow
def test_a_process_whose_gpu_is_lost_can_still_say_so(ended: dict[str, Any], root: Path) -> None:
    assert ended["frail device"]["codes"] == [1, 1]
    found = manifest(root / "frail device")
    assert (found["status"], found["error"]) == (
        "failed",
        "RuntimeError: the GPU is lost, on purpose",
    )
    assert "On rank 1: " in (root / "frail device" / "traceback.txt").read_text()


@pytest.mark.slow
def test_where_the_first_process_is_killed_another_one_tells(
    ended: dict[str, Any], root: Path
) -> None:
    assert ended["first killed"]["codes"] == [-signal.SIGKILL, 1]
    # Before it come the words of torch's own store, which ended too.
    last = (root / "first killed.rank1.out").read_text().splitlines()[-1]
    assert last.startswith(f"bilevel-run: {KILLED}")


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up_after_a_while(tmp_path: Path) -> None:
    stopping: dict[str, Any] = {"signum": signal.SIGSTOP, "ranks": [1], "rows": 2}
    (outcome,) = run([Command(str(tmp_path / "hangs"), LONG, **stopping, patience=20)])
    assert outcome["codes"] == [1, -signal.SIGKILL]
    last = (tmp_path / "hangs.rank0.out").read_text().splitlines()[-1]
    assert last.startswith(f"bilevel-run: {KILLED}")
    assert manifest(tmp_path / "hangs")["status"] == "failed"


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process finds itself the first of two."""
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["-m", "seed=0,1"], "torchrun needs a command for one run, which its processes share"),
        (["hydra.mode=MULTIRUN"], "torchrun needs a command for one run"),
        (["replicas=2"], "Several processes share a single run, got replicas=2"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("two_processes")
def test_what_is_no_single_run_is_refused_before_any_work(
    overrides: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bilevel_run(monkeypatch, *QUICK, *overrides) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("train.csv"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=quadratic", "method=darts"], "share the examples of one inner problem, got Quad"),
        (["task=quadratic", "method=cg"], "got Implicit, which takes products with second ones"),
        (["task=meta", "data=digits", "task.episodes=1"], "2 processes need an episode each"),
        ([*SHARED, "task.batch_size=1"], "2 processes need an example each, got HyperCleaning"),
        ([*SHARED, "model=conv4"], "examples meet, such as by batch normalisation"),
        ([*SHARED, "device.capture=compile"], "got device.capture=compile"),
        (["task=meta_weight_net", *SHARED[1:]], "got MetaWeightNet, whose inner steps follow"),
    ],
    ids=str,
)
def test_what_processes_cannot_share_is_refused_with_a_reason(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    config = configured("model=linear", "device=cpu", *overrides)
    with pytest.raises(UsageError, match=message):
        build.build(config, resolved(config), tmp_path, {}, Processes(0, 2))


@pytest.mark.usefixtures("two_processes")
def test_processes_share_the_memory_budget_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_budget", None)
    parts(configured("task=quadratic", "device=cpu", "device.memory_budget=8 MB"), {})
    assert memory.budget() == 4_000_000


@pytest.mark.usefixtures("two_processes")
def test_processes_take_a_gpu_each() -> None:
    config = configured("task=quadratic", "device=cuda", "device.name=cuda:1")
    with pytest.raises(ValueError, match="Several processes need a GPU each"):
        parts(config, {})


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "got 2 processes and GPUs for 1. Use torchrun --nproc-per-node=1, or device=cpu"
    with pytest.raises(ValueError, match=message):
        parts(configured("task=quadratic", f"device={name}"), {})


@pytest.mark.slow
def test_a_hundred_runs_by_two_processes_end_without_an_abort(tmp_path: Path) -> None:
    given = ["task=meta", "model=linear", "data=digits", "task.episodes=2", "task.eval_episodes=2"]
    given += ["device=cpu", "inner_steps=1", "outer_steps=2", "log_every=1"]
    outcomes = run([Command(str(tmp_path / str(i)), given, whole=True) for i in range(100)])
    assert [outcome["codes"] for outcome in outcomes] == [[0, 0]] * 100
    assert not any(path.read_text() for path in tmp_path.glob("*.rank1.out"))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_torchrun_stops_all_and_the_same_command_goes_on(
    signum: signal.Signals, tmp_path: Path
) -> None:
    stopped, whole = ([*LONG, f"hydra.run.dir={tmp_path / name}"] for name in ("stopped", "whole"))
    with subprocess.Popen(torchrun(*stopped), stderr=subprocess.PIPE, text=True) as agent:
        train = tmp_path / "stopped" / "train.csv"
        while not train.exists() or train.read_bytes().count(b"\n") <= 12:
            assert agent.poll() is None
            time.sleep(0.002)
        if signum == signal.SIGKILL:  # of one process
            os.kill(_process_of(agent, rank=1), signum)
        else:  # torchrun hands it on
            agent.send_signal(signum)
        agent.communicate(timeout=600)  # and not after half an hour
    assert agent.returncode == 1, "torchrun has one code for all that is not success"
    status = "failed" if signum == signal.SIGKILL else "interrupted"
    assert manifest(tmp_path / "stopped")["status"] == status
    assert subprocess.run(torchrun(*stopped), capture_output=True).returncode == 0
    assert subprocess.run(torchrun(*whole), capture_output=True).returncode == 0
    (tmp_path / "stopped" / "traceback.txt").unlink(missing_ok=True)
    check_alike(tmp_path / "whole", tmp_path / "stopped", 0)


def _process_of(agent: "subprocess.Popen[str]", rank: int) -> int:
    """The number of the process of a rank, among the children of torchrun."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    environments = {child: Path(f"/proc/{child}/environ").read_bytes() for child in children}
    return int(next(c for c, e in environments.items() if b"\0RANK=%d\0" % rank in e))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_find_the_numbers_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*QUICK, "method=iaptt", "device=cuda", "device.dtype=float64"]
    given.append("device.deterministic=true")
    folder = f"hydra.run.dir={tmp_path / 'two'}"
    done = subprocess.run(torchrun(*given, folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bilevel_run(monkeypatch, *given, f"hydra.run.dir={tmp_path / 'one'}") == 0
    check_alike(tmp_path / "one", tmp_path / "two", 1e-12)

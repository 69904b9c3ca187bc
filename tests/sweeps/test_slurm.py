"""Sweeps on a real SLURM of one node: see tests/slurm/start.sh and `make test-slurm`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import numbers

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not (shutil.which("sbatch") and os.environ.get("SLURM_CONF")),
        reason="needs a SLURM: make test-slurm",
    ),
]
LAUNCHER = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
RUN = ["task=quadratic", "method=cg", "device=cpu", "save_every=1000", "log_every=10"]
LONG = [*RUN, "outer_steps=3000"]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bilevel_cli", "-m", *LAUNCHER, *arguments]
    return subprocess.Popen(
        [*command, f"hydra.sweep.dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, error = process.communicate(timeout=400)
    return process.returncode, out + error


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def rows(sweep: Path, pattern: str) -> int:
    found = list(sweep.glob(f"{pattern}/train.csv"))
    return len(found[0].read_bytes().splitlines()) if found else 0


def squeue(option: str) -> list[str]:
    asked = ["squeue", "--noheader", "--array", f"--format={option}"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def statuses(sweep: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["status"] for path in sweep.glob("*/job.json"))


def process_of(sweep: Path, pattern: str) -> int:
    (path,) = sweep.glob(f"{pattern}/lock")
    found = re.match(r"process (\d+)", path.read_text())
    assert found
    return int(found[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = finish(start(folder, *LONG, "seed=0,1"))
    assert code == 0, said
    return folder


def begun(sweep: Path, count: int) -> "subprocess.Popen[str]":
    """The command of two runs that have more than so many rows each."""
    command = start(sweep, *LONG, "seed=0,1")
    wait_for(lambda: min(rows(sweep, f"*seed={seed}*") for seed in (0, 1)) > count)
    return command


def check_alike(one: Path, other: Path) -> None:
    """The numbers of two sweeps, bit for bit."""
    names = sorted(path.name for path in one.glob("*seed=*"))
    assert names == sorted(path.name for path in other.glob("*seed=*"))
    for name in names:
        for table in ("train.csv", "eval.csv"):
            assert numbers(one / name / table) == numbers(other / name / table)


def test_an_array_of_jobs_runs_and_the_table_tells_of_each(tmp_path: Path) -> None:
    code, said = finish(
        start(tmp_path, "task=quadratic", "method=cg,direct", "seed=0,1", "outer_steps=20")
    )
    assert code == 1, said
    assert len(re.findall(r"^method=cg seed=\d +completed +[\d.]+$", said, re.MULTILINE)) == 2
    assert len(re.findall(r"^method=direct seed=\d +refused +-  Direct needs", said, re.MULTILINE))
    assert "bilevel-run: method=direct (2 jobs): Direct needs" in said
    assert "4 jobs: 2 completed, 2 refused" in said
    numbered = [path.name for path in (tmp_path / ".submitit").glob("[0-9]*_*")]
    assert len(numbered) == 2  # those of direct are refused before
    assert len({name.partition("_")[0] for name in numbered}) == 1  # one array


def test_a_requeued_job_continues_bit_for_bit(tmp_path: Path, whole: Path) -> None:
    sweep = begun(tmp_path, 20)
    number = squeue("%i")[0]
    subprocess.run(["scontrol", "requeue", number], check=True)
    wait_for(lambda: "interrupted" in statuses(tmp_path))
    code, said = finish(sweep)
    assert code == 0, said
    check_alike(whole, tmp_path)


def test_a_job_that_gets_usr2_requeues_itself(tmp_path: Path, whole: Path) -> None:
    sweep = begun(tmp_path, 20)
    for number in squeue("%i"):
        subprocess.run(["scancel", "--signal=USR2", number], check=True)
    wait_for(lambda: statuses(tmp_path) == ["interrupted"] * 2)
    code, said = finish(sweep)
    assert code == 0, said
    check_alike(whole, tmp_path)


def test_a_killed_job_is_named_and_the_same_command_continues_it(
    tmp_path: Path, whole: Path
) -> None:
    sweep = begun(tmp_path, 120)
    os.kill(process_of(tmp_path, "*seed=0*"), signal.SIGKILL)
    code, said = finish(sweep)
    assert code == 1, said
    assert re.search(r"^seed=0 +killed +-  Its process was killed", said, re.MULTILINE)
    assert re.search(r"^seed=1 +completed ", said, re.MULTILINE)
    code, said = finish(start(tmp_path, *LONG, "seed=0,1"))
    assert code == 0, said
    assert "1 of 2 jobs are completed" in said
    check_alike(whole, tmp_path)


def test_ctrl_c_leaves_the_jobs_of_a_cluster_running_and_says_so(tmp_path: Path) -> None:
    sweep = begun(tmp_path, 20)
    sweep.send_signal(signal.SIGINT)
    code, said = finish(sweep)
    assert code == 130
    assert "2 jobs: 2 running" in said
    assert "2 of the jobs go on without it" in said
    assert statuses(tmp_path) == ["running"] * 2
    subprocess.run(["scancel", *squeue("%i")], check=True)


def test_jobs_outlive_the_launcher_and_the_same_command_waits_for_them(
    tmp_path: Path, whole: Path
) -> None:
    sweep = begun(tmp_path, 20)
    sweep.kill()
    finish(sweep)
    assert statuses(tmp_path) == ["running"] * 2
    code, said = finish(start(tmp_path, *LONG, "seed=0,1"))
    assert code == 0, said
    assert "2 of 2 jobs are completed, or still running" in said
    check_alike(whole, tmp_path)

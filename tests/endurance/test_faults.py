"""What a run does when the machine or its numbers fail it: nothing is lost, and nothing silent."""

import errno
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import bilevel_run
from configs import configured
from configs import options as names
from omegaconf import DictConfig

from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.data import digits
from bilevel_cli.errors import Failed, Unwritten, UsageError, out_of_memory
from bilevel_cli.machine import memory
from bilevel_cli.machine.signals import Interrupted, Stopped
from bilevel_cli.records.lock import hold
from bilevel_cli.runs import build, checkpoint, entry, one_function, origin
from bilevel_cli.runs.divergence import RESTORES
from bilevel_cli.runs.failures import too_large
from bilevel_cli.runs.runner import Runner
from bilevel_cli.vocabulary import CHECKPOINT

QUICK = ["device=cpu", "device.dtype=float64", "task=quadratic", "inner_steps=5", "outer_steps=12"]
QUICK += ["log_every=1", "eval_every=3", "save_every=2"]
DIGITS = ["task=reweight", "data=digits", "data.train=40", "data.validation=40", "inner_steps=2"]
COMMAND = ["task=quadratic", "device=cpu", "outer_steps=12", "log_every=1", "save_every=2"]
TIMINGS = ["seconds", "peak_memory_mb"]
Change = Callable[[Callable[[Runner], None]], None]
Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("digits_read_once")


def go(directory: Path, *overrides: str) -> float | None:
    return entry.run(configured(*QUICK, *overrides), directory, {})


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of bilevel-run."""
    try:
        return bilevel_run(monkeypatch, *arguments)
    finally:
        close_log()


def close_log() -> None:
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            stream: Any = handler.stream
            os.close(stream.fileno())  # what a full disk did not take stays unwritten
            with suppress(OSError):
                stream.close()


def described(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return found


def check_alike(one: Path, other: Path) -> None:
    """The tables and the result of two runs, bit for bit."""
    for name in ("train.csv", "eval.csv"):
        both = [pd.read_csv(folder / name) for folder in (one, other)]
        left, right = (table.drop(columns=TIMINGS, errors="ignore") for table in both)
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    learned = [checkpoint.load(folder / CHECKPOINT)["outer"] for folder in (one, other)]
    for name, value in learned[0].items():
        assert torch.equal(value, learned[1][name])
    assert {path.name for path in one.glob("*.pt")} == {path.name for path in other.glob("*.pt")}


# ---- signals


def task_of(runner: Runner) -> Any:
    """Whose methods may be replaced."""
    return runner.experiment.task


def at_step(runner: Runner, step: int, act: Callable[[], object]) -> None:
    """Has something happen within outer step `step`, the first being 1."""
    estimate = runner.estimate

    def acting(*given: Any) -> Any:
        if runner.step + 1 == step:
            act()
        return estimate(*given)

    runner.estimate = acting


def send(*signals: int) -> Callable[[], None]:
    def act() -> None:
        for signum in signals:
            os.kill(os.getpid(), signum)

    return act


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR2, 0)],
)
def test_a_signal_stops_a_run_after_its_step_and_it_continues_bit_for_bit(
    signum: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "whole")
    with monkeypatch.context() as patch:
        built = build.build

        def spoiled(*given: Any) -> Runner:
            runner = built(*given)
            at_step(runner, 5, send(signum))
            return runner

        patch.setattr(build, "build", spoiled)
        with pytest.raises(Interrupted) as stopped:
            go(tmp_path / "stopped")
    assert stopped.value.code == code
    assert checkpoint.load(tmp_path / "stopped" / CHECKPOINT)["step"] == 5
    assert described(tmp_path / "stopped")["status"] == "interrupted"
    go(tmp_path / "stopped")
    check_alike(tmp_path / "whole", tmp_path / "stopped")


def test_a_second_signal_stops_a_run_at_once(tmp_path: Path, changed: Change) -> None:
    changed(lambda runner: at_step(runner, 6, send(signal.SIGINT, signal.SIGINT)))
    with pytest.raises(Stopped) as stopped:
        go(tmp_path)
    assert (stopped.value.code, isinstance(stopped.value, Interrupted)) == (130, False)
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4
    assert described(tmp_path)["status"] == "interrupted"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 0)])
def test_a_signal_before_the_first_step_ends_the_command_with_its_code(
    signum: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any) -> Runner:
        os.kill(os.getpid(), signum)
        raise AssertionError("it was to stop")

    monkeypatch.setattr(build, "build", stopped)
    assert command(monkeypatch, *COMMAND, f"hydra.run.dir={tmp_path}") == code
    assert not (tmp_path / CHECKPOINT).exists()


# ---- a full disk


@contextmanager
def small_disk(pages: int, tmp_path: Path) -> Iterator[Path]:
    """A file system of so many pages of 4 kB."""
    folder = tmp_path / "disk"
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 * pages}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free_pages(folder: Path) -> int:
    return os.statvfs(folder).f_bfree


def fill(folder: Path, leave: int) -> Path:
    """Takes all pages but some."""
    filler = folder / "filler"
    filler.write_bytes(bytes(4096 * max(free_pages(folder) - leave, 0)))
    return filler


def fill_and_continue(folder: Path, whole: Path, pages: range, go: Callable[[Path], int]) -> None:
    """Begins a run with more and more pages, until one ends; each continues with space."""
    ended = False
    for leave in pages:
        filler, run = fill(folder, leave), folder / f"run{leave}"
        code = go(run)
        assert code in (0, 3), leave
        ended |= code == 0
        if (run / "manifest.json").exists():  # in whole
            assert described(run)["status"] in ("running", "failed", "completed")
        for path in run.glob("*.pt"):
            torch.load(path)
        filler.unlink()
        assert go(run) == 0, leave
        check_alike(whole, run)
        leftovers = {path.suffix for path in run.rglob("*")}
        assert ".partial" not in leftovers
        for path in sorted(run.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert ended


EVERY = [3, pytest.param(1, marks=pytest.mark.faults)]


@pytest.mark.parametrize("every", EVERY)
def test_a_disk_that_fills_at_any_file_costs_nothing_but_the_wait(
    every: int, tmp_path: Path
) -> None:
    go(tmp_path / "whole")

    def attempt(folder: Path) -> int:
        try:
            go(folder)
        except Unwritten as error:
            message = str(error)
        else:
            return 0
        assert "No space left on device. Free some, and it continues with" in message
        return 3

    with small_disk(100, tmp_path) as folder:
        fill_and_continue(folder, tmp_path / "whole", range(0, 31, every), attempt)


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.faults)])
def test_the_command_ends_with_3_on_a_full_disk_and_then_continues(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert command(monkeypatch, *COMMAND, f"hydra.run.dir={tmp_path / 'whole'}") == 0
    capsys.readouterr()

    def attempt(folder: Path) -> int:
        code = command(monkeypatch, *COMMAND, f"hydra.run.dir={folder}")
        error = capsys.readouterr().err
        assert code == 0 or error.startswith("bilevel-run: ")
        assert len(error.splitlines()) == (code != 0), error
        return code

    with small_disk(100, tmp_path) as folder:
        fill_and_continue(folder, tmp_path / "whole", range(0, 41, every), attempt)


@pytest.mark.parametrize("size", [0, 10, 100, 500, 1000, 2000, 4000])
def test_files_that_may_not_grow_are_a_full_disk(size: int, tmp_path: Path) -> None:
    go(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(Unwritten, match=r"File too large\. Free some, and it continues"):
            go(tmp_path / "small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    go(tmp_path / "small")
    check_alike(tmp_path / "whole", tmp_path / "small")


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_later_is_told_from_a_wrong_setting(
    number: int, tmp_path: Path, changed: Change
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    changed(lambda runner: setattr(runner.rows.train, "sync", fail))
    with pytest.raises(Unwritten, match=os.strerror(number)):
        go(tmp_path)
    assert described(tmp_path)["status"] == "failed"


def test_a_result_is_written_in_whole_or_not(tmp_path: Path, changed: Change) -> None:
    go(tmp_path, "outer_steps=6")
    before = (tmp_path / "outer.pt").read_bytes()

    def spoil(runner: Runner) -> None:
        def half(folder: Path, *given: Any) -> list[Path]:
            (folder / "outer.pt").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        task_of(runner).save_result = half

    changed(spoil)
    with pytest.raises(Unwritten):
        go(tmp_path)
    assert (tmp_path / "outer.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_sweep_goes_on_without_a_job_that_cannot_write_and_ends_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    real = entry.run

    def run(config: DictConfig, *given: Any) -> float | None:
        if config.seed == 0:
            raise Unwritten("no space", "failed")
        return real(config, *given)

    monkeypatch.setattr(entry, "run", run)
    sweep = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert command(monkeypatch, *COMMAND, *sweep) == 3
    assert "1 of the jobs failed:" in capsys.readouterr().err
    assert [described(path.parent)["status"] for path in tmp_path.glob("*/manifest.json")] == [
        "completed"
    ]


# ---- numbers that are not finite


def poison(runner: Runner, what: str, value: float, step: int, until: float = math.inf) -> None:
    """Has a number of the steps from `step` on be `value`."""

    def poisoned() -> bool:
        return step <= runner.step + 1 < until

    estimate, sample = runner.estimate, runner.experiment.task.sample

    def spoiled(outer: Params, data: StepData, carry: Any) -> Any:
        found = estimate(outer, data, carry)
        if not poisoned():
            return found
        if what == "loss":
            return found._replace(loss=found.loss * 0 + value)
        return found._replace(grad={name: g * 0 + value for name, g in found.grad.items()})

    def sampled(num_steps: int, generator: torch.Generator) -> StepData:
        data = sample(num_steps, generator)
        if not poisoned() or generator is runner.state.random.extras:
            return data
        return data._replace(inner={n: x * 0 + value for n, x in data.inner.items()})

    if what == "data":  # hence inner losses, gradients, products and linear solves
        task_of(runner).sample = sampled
    else:
        runner.estimate = spoiled


def check_diverged(directory: Path, *overrides: str) -> None:
    with pytest.raises(Failed, match=r"Diverged\. A.*no finite"):
        go(directory, *overrides)
    found = described(directory)
    assert found["status"] == "diverged"
    assert "no finite" in found["error"]
    rows = pd.read_csv(directory / "train.csv")
    kept = rows[rows["step"] < 5]
    # The numbers before are those of a healthy run; the last row shows what is wrong, or the step
    # raised and has none.
    assert np.isfinite(kept).all(axis=None)
    assert kept["step"].tolist() == [1, 2, 3, 4]
    after = rows[rows["step"] >= 5]
    assert not np.isfinite(after).all(axis=1).any()
    assert "raised" in found["error"] or "solution" in found["error"] or len(after) == 1
    state = checkpoint.load(directory / CHECKPOINT)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["outer"].values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "grad", "data"])
def test_a_number_that_is_not_finite_ends_a_run_and_is_kept(
    what: str, value: float, tmp_path: Path, changed: Change
) -> None:
    changed(lambda runner: poison(runner, what, value, step=5))
    check_diverged(tmp_path)


BARREN = ["direct", "none"]  # refused by this task; has no hypergradient


@pytest.mark.parametrize(
    "method",
    [
        name
        if name in ("iaptt", "cg", "exact", "nystrom", "f2sa", "es", "saba", "pes")
        else pytest.param(name, marks=pytest.mark.faults)
        for name in names("method")
        if name not in BARREN
    ],
)
def test_no_method_hides_a_number_that_is_not_finite(
    method: str, tmp_path: Path, changed: Change
) -> None:
    changed(lambda runner: poison(runner, "data", math.nan, step=5))
    check_diverged(tmp_path, f"method={method}")


def test_a_score_that_is_not_finite_ends_a_run(tmp_path: Path, changed: Change) -> None:
    def spoil(runner: Runner) -> None:
        evaluate = runner.experiment.task.evaluate

        def spoiled(*given: Any) -> Any:
            scores = evaluate(*given)
            return scores if runner.step < 6 else {**scores, "value": scores["value"] / 0}

        task_of(runner).evaluate = spoiled

    changed(spoil)
    with pytest.raises(Failed, match="At step 6 there is no finite value"):
        go(tmp_path)
    assert pd.read_csv(tmp_path / "eval.csv")["step"].tolist() == [0, 3, 6]
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4


def test_a_run_goes_on_where_it_is_told_to_and_says_since_when(
    tmp_path: Path, changed: Change
) -> None:
    changed(lambda runner: poison(runner, "loss", math.inf, step=5, until=7))
    go(tmp_path, "on_divergence=continue")
    losses = pd.read_csv(tmp_path / "train.csv")["outer_loss"]
    assert np.isinf(losses).tolist() == [False] * 4 + [True] * 2 + [False] * 6
    found = described(tmp_path)
    assert (found["status"], found["diverged_at"]) == ("completed", 5)


def test_a_run_that_goes_on_and_does_not_recover_has_diverged(
    tmp_path: Path, changed: Change
) -> None:
    changed(lambda runner: poison(runner, "grad", math.nan, step=5, until=6))
    with pytest.raises(Failed, match=r"Diverged\. At step 12 there is no finite"):
        go(tmp_path, "on_divergence=continue")
    assert pd.read_csv(tmp_path / "train.csv")["step"].tolist() == list(range(1, 13))
    assert described(tmp_path)["diverged_at"] == 5
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4
    assert not (tmp_path / "outer.pt").exists()


def limit_step_size(runner: Runner) -> None:
    """Has a run diverge from step 5 on above 0.2, whatever the schedule makes of it then."""
    estimate = runner.estimate

    def limited(*given: Any) -> Any:
        found = estimate(*given)
        small = max(runner.state.scheduler.base_lrs) < 0.2
        return found if small or runner.step < 5 else found._replace(loss=found.loss / 0)

    runner.estimate = limited


@pytest.mark.parametrize("scheduler", ["constant", "cosine", "power"])
def test_restoring_halves_the_outer_step_size_until_the_run_is_finite(
    scheduler: str, tmp_path: Path, changed: Change
) -> None:
    changed(limit_step_size)  # 1, 1/2 and 1/4 fail
    choices = ["on_divergence=restore", "optimizer=sgd", "optimizer.lr=1.0", "task.noise=0"]
    go(tmp_path, *choices, f"scheduler={scheduler}")
    state = checkpoint.load(tmp_path / CHECKPOINT)
    assert state["scheduler"]["base_lrs"] == [0.125]
    factor = {"constant": 1, "cosine": 0, "power": 13**-0.5}[scheduler]
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.125 * factor, abs=1e-12)
    assert described(tmp_path)["restores"] == 3
    rows = pd.read_csv(tmp_path / "train.csv")
    assert rows["step"].tolist() == list(range(1, 13))
    assert rows["seconds"].is_monotonic_increasing
    # Two lost steps at each of three times: 12 and 6 steps of 5 gradients.
    assert rows["inner_grads"].iloc[-1] == 5 * (12 + 3 * 2)


def test_a_restored_run_that_is_killed_continues_bit_for_bit(
    tmp_path: Path, changed: Change
) -> None:
    class Kill(BaseException):
        """What no handler catches."""

    def kill() -> None:
        raise Kill

    deaths = iter(range(4, 13))
    mortal = False

    def steep(runner: Runner) -> None:
        limit_step_size(runner)
        if mortal and (step := next(deaths, None)):
            at_step(runner, step, kill)

    changed(steep)
    choices = ["on_divergence=restore", "optimizer=sgd", "optimizer.lr=1.0", "method=saba"]
    choices += ["task=ridge", "task.batch_size=16", "task.outer_batch_size=16"]
    go(tmp_path / "whole", *choices)
    mortal = True
    while True:
        try:
            go(tmp_path / "killed", *choices)
        except Kill:
            continue
        break
    check_alike(tmp_path / "whole", tmp_path / "killed")
    assert described(tmp_path / "killed")["restores"] == 3


def test_restoring_is_given_up(tmp_path: Path, changed: Change) -> None:
    changed(lambda runner: poison(runner, "loss", math.nan, step=5))
    with pytest.raises(Failed, match=f"The run went back {RESTORES} times"):
        go(tmp_path, "on_divergence=restore")
    assert described(tmp_path)["restores"] == RESTORES
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4


def test_a_run_that_diverges_before_its_first_checkpoint_is_restored_to_its_start(
    tmp_path: Path, changed: Change
) -> None:
    def once(runner: Runner) -> None:
        healthy = runner.estimate
        poison(runner, "loss", math.nan, step=2)
        spoiled = runner.estimate

        def first_time(*given: Any) -> Any:
            return (healthy if runner.divergence.restores else spoiled)(*given)

        runner.estimate = first_time

    changed(once)
    go(tmp_path, "on_divergence=restore", "save_every=100")
    assert pd.read_csv(tmp_path / "eval.csv")["step"].tolist() == [0, 3, 6, 9, 12]


def test_a_run_that_stopped_where_it_diverged_can_be_restored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        built = build.build

        def spoiled(*given: Any) -> Runner:
            runner = built(*given)
            poison(runner, "loss", math.nan, step=5)
            return runner

        patch.setattr(build, "build", spoiled)
        with pytest.raises(Failed, match="Diverged"):
            go(tmp_path)
    go(tmp_path, "on_divergence=restore")
    assert described(tmp_path)["status"] == "completed"


def test_a_replica_that_is_restored_leaves_the_others_alone(
    tmp_path: Path, changed: Change
) -> None:
    go(tmp_path / "alone", "seed=1")

    def limit(runner: Runner) -> None:
        if runner.identity.settings["seed"] == 0:
            evaluate = runner.experiment.task.evaluate

            def spoiled(*given: Any) -> Any:
                scores = evaluate(*given)
                bad = runner.step == 6 and runner.divergence.restores < 2
                return {**scores, "value": scores["value"] / 0} if bad else scores

            task_of(runner).evaluate = spoiled

    changed(limit)
    go(tmp_path / "both", "replicas=2", "on_divergence=restore")
    found = [described(tmp_path / "both" / f"seed={seed}")["restores"] for seed in range(2)]
    assert found == [2, 0]
    one, two = (
        pd.read_csv(folder / "train.csv").drop(columns=TIMINGS)
        for folder in (tmp_path / "alone", tmp_path / "both" / "seed=1")
    )
    pd.testing.assert_frame_equal(one, two, rtol=1e-9)


# ---- memory


# As libraries word it. Most of these errors need hardware that tests do not have.
NO_MEMORY = [
    # torch's allocators: CUDA, the same by cudaMallocAsync, ROCm, XPU, MPS
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB",
    "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated",
    "HIP out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 15.98 GiB",
    "XPU out of memory. Tried to allocate 192.00 MiB. GPU 3 has a total capacity of 31.89 GiB",
    "MPS backend out of memory (MPS allocated: 7.64 GiB, other allocations: 68.91 GiB)",
    # the CUDA runtime and its driver
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "HIP error: out of memory",
    # libraries of CUDA, before cuDNN 9 and since, and those of ROCm
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "MIOpen Error: miopenStatusAllocFailed",
    # NCCL
    "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error (run with NCCL_DEBUG=INFO for details)\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
    "Cuda failure 2 'out of memory'",
    # a CPU: the allocator on Linux and elsewhere, C++, a mapped file, sizes beyond all memory
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "std::bad_alloc",
    "unable to mmap 8192 bytes from file </tmp/x>: Cannot allocate memory (12)",
    "Storage size calculation overflowed with sizes=[4611686018427387904]",
    "Tensor storage size overflowed",
    "numel: integer multiplication overflow",
]
OF_OTHER_KINDS = [
    "the size of tensor a must match",
    "required rank 4 tensor to use channels_last memory format",
    "CUDA error: an illegal memory access was encountered",
    "some of the strides reach out of memory bounds",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: operation failed due to a previous error during capture",
    "out of resource: shared memory, Required: 262144, Hardware limit: 101376",
    "value cannot be converted to type int8_t without overflow",
    "NCCL error in: NCCLUtils.cpp:77, unhandled system error (run with NCCL_DEBUG=INFO)",
]


@pytest.mark.parametrize("words", NO_MEMORY)
def test_there_are_many_words_for_too_little_memory(words: str) -> None:
    assert out_of_memory(RuntimeError(words))
    assert out_of_memory(torch.OutOfMemoryError(words))
    assert not out_of_memory(ValueError(words))  # somebody's own sentence


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_python_and_the_system_have_types_for_it(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize("words", OF_OTHER_KINDS)
def test_not_every_word_about_memory_is_about_too_little_of_it(words: str) -> None:
    assert not out_of_memory(RuntimeError(words))


def allocate() -> None:
    torch.empty(2**50)


def test_a_step_that_does_not_fit_into_memory_names_sizes_and_ways_out(
    tmp_path: Path, changed: Change
) -> None:
    changed(lambda runner: at_step(runner, 5, allocate))
    choices = ["task=meta", "task.episodes=2", "task.eval_episodes=2", "outer_steps=6"]
    with pytest.raises(Failed) as failed:
        go(tmp_path, *choices, "method=reverse")
    found = described(tmp_path)
    assert (found["status"], found["error"]) == ("oom", str(failed.value))
    assert failed.value.status == "oom"
    for words in ("asked for 9007199254740992 bytes", "5 inner steps on", "outer parameters"):
        assert words in found["error"]
    for way in ("method.segment=1", "memory_budget", "dtype=float32", "task.episodes"):
        assert way in found["error"]
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 4


def test_a_graph_that_does_not_fit_into_memory_can_be_left_out() -> None:
    config = configured(*QUICK)
    for how, said in ((None, False), ("cuda_graph", True)):
        config.device.capture = how
        reason = too_large(MemoryError(), None, config, 1)
        assert ("device.capture=null" in reason) is said


def test_a_replica_without_memory_leaves_the_others_alone(tmp_path: Path, changed: Change) -> None:
    def fail_one(runner: Runner) -> None:
        evaluate = runner.experiment.task.evaluate

        def failing(*given: Any) -> Any:
            if runner.identity.settings["seed"] == 0 and runner.step == 6:
                torch.empty(2**50)
            return evaluate(*given)

        task_of(runner).evaluate = failing

    changed(fail_one)
    with pytest.raises(
        Failed, match=r"1 of 2 replicas failed\. seed=0: Out of memory.*replicas < 2"
    ):
        go(tmp_path, "replicas=2")
    statuses = [described(tmp_path / f"seed={seed}")["status"] for seed in range(2)]
    assert statuses == ["oom", "completed"]


def test_data_that_do_not_fit_into_memory_are_no_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "_load", lambda *given: allocate())
    with pytest.raises(Failed, match="Out of memory, asked for"):
        go(tmp_path, *DIGITS)
    assert described(tmp_path)["status"] == "oom"


LIMITED = """
import resource, sys
from bilevel_cli.commands import run
from bilevel_cli.runs import build
def limited(*given):
    runner = real(*given)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    size = 1024 * int(status["VmSize"].split()[0]) + 20_000_000
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return runner
real, build.build = build.build, limited
run.main()
"""


@pytest.mark.faults
def test_a_process_with_little_memory_ends_with_one_line(tmp_path: Path) -> None:
    # A Hessian of 3000 x 3000 takes 36 MB.
    program = [sys.executable, "-c", LIMITED, "task=quadratic", "task.inner_dim=3000"]
    program += ["device=cpu", "method=exact", "device.threads=1", f"hydra.run.dir={tmp_path}"]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith("bilevel-run: Out of memory, asked for")
    assert len(ended.stderr.splitlines()) == 1
    assert described(tmp_path)["status"] == "oom"


@pytest.mark.gpu
def test_a_gpu_without_memory_is_told_from_a_failure(tmp_path: Path, changed: Change) -> None:
    changed(lambda runner: at_step(runner, 5, lambda: torch.empty(2**50, device="cuda")))
    with pytest.raises(Failed, match=r"Out of memory, asked for .* on cuda"):
        go(tmp_path, "device.name=cuda")
    assert described(tmp_path)["status"] == "oom"


def test_replicas_on_threads_share_the_memory_budget(
    tmp_path: Path, changed: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, int] = {}
    monkeypatch.setattr(one_function, "LARGE", 0)

    def look(runner: Runner) -> None:
        estimate = runner.outer_step

        def looking(*given: Any) -> Any:
            seen[threading.get_ident()] = memory.budget()
            return estimate(*given)

        runner.outer_step = runner.estimate = looking

    changed(look)
    threads = torch.get_num_threads()
    try:
        go(tmp_path, "replicas=2", "device.memory_budget=1 GB", "device.threads=2")
    finally:
        torch.set_num_threads(threads)
    assert set(seen.values()) == {500_000_000}
    assert memory.budget() == 1_000_000_000


# ---- one run in a folder


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    go(tmp_path)
    with hold(tmp_path):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UsageError, match=f"in which process {os.getpid()} on .* is running"):
            go(tmp_path, "outer_steps=20")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    go(tmp_path, "outer_steps=20")


def test_a_replica_whose_folder_is_taken_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "seed=1", "seed=1")
    with hold(tmp_path / "seed=1"), pytest.raises(UsageError, match="seed=1 for itself"):
        go(tmp_path, "replicas=2")
    go(tmp_path, "replicas=2")


HOLDER = """
import sys, time
from pathlib import Path
from bilevel_cli.records.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    program = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in which process {process.pid}"):
            go(tmp_path)
        process.kill()
    go(tmp_path)


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    go(tmp_path)
    assert f"Nothing keeps other runs out of {tmp_path}: No locks available." in caplog.text


@pytest.mark.faults
def test_eight_runs_of_one_second_get_eight_folders(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "bilevel_cli", *COMMAND]
    running = [subprocess.Popen(program, cwd=tmp_path) for _ in range(8)]
    assert [process.wait() for process in running] == [0] * 8
    assert len(list((tmp_path / "outputs").rglob("manifest.json"))) == 8


# ---- another version, machine or data


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    go(tmp_path, *DIGITS, "outer_steps=4")
    return tmp_path


def test_other_versions_are_warned_of_by_name(
    begun: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(origin, "git_commit", lambda: "abc")
    monkeypatch.setattr(torch, "__version__", "1.0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    go(begun, *DIGITS)
    (line,) = [line for line in caplog.text.splitlines() if "goes on otherwise" in line]
    for words in ("git_commit=", "and abc here", "and 1.0 here", "and 77 here"):
        assert words in line
    assert described(begun)["status"] == "completed"


def test_a_checkpoint_that_lacks_something_is_refused_by_its_name(begun: Path) -> None:
    state = checkpoint.load(begun / CHECKPOINT)
    del state["origin"], state["tables"]
    checkpoint.save(begun / CHECKPOINT, state)
    with pytest.raises(UsageError, match=r"of this version, got one .* without origin, tables"):
        go(begun, *DIGITS)


def test_one_other_pixel_in_the_data_is_refused_and_can_be_forced(
    begun: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = described(begun)["data_sha256"]
    assert len(before) == 16
    splits = digits.Digits.splits

    def spoiled(self: Any, generator: Any) -> Any:
        parts = splits(self, generator)
        parts.train.x.view(-1)[100] += 1e-6
        return parts

    monkeypatch.setattr(digits.Digits, "splits", spoiled)
    with pytest.raises(UsageError, match=f"holds a run with other data: data={before} there and"):
        go(begun, *DIGITS)
    go(begun, *DIGITS, "resume=force")
    assert "It goes on, since resume=force." in caplog.text
    assert described(begun)["data_sha256"] != before


def test_other_settings_can_be_forced_where_tensors_have_the_same_shapes(
    begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match=r"solver.lr=.* there and 0.05 here.*resume=force"):
        go(begun, *DIGITS, "solver.lr=0.05")
    with pytest.raises(UsageError, match=r"tensors of the same shapes, got .*\[40\] there"):
        go(begun, *DIGITS, "data.train=30", "resume=force")
    go(begun, *DIGITS, "solver.lr=0.05", "resume=force")
    assert "0.05 here. It goes on, since resume=force." in caplog.text
    go(begun, *DIGITS, "solver.lr=0.05", "outer_steps=13")  # it is a run of these settings now


def test_a_checkpoint_of_another_device_is_refused(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = origin.origin
    monkeypatch.setattr(build, "origin", lambda *given: {**versions(*given), "device": "cuda"})
    with pytest.raises(UsageError, match="device=cpu there and cuda here"):
        go(begun, *DIGITS, "resume=force")


@pytest.mark.parametrize(
    "setting", ["resume=never", "on_divergence=ignore", "resume=null", "on_divergence=[]"]
)
def test_an_unknown_way_to_go_on_is_refused(setting: str, tmp_path: Path) -> None:
    name, *_ = setting.partition("=")
    with pytest.raises(UsageError, match=f"A run needs {name} to be one of"):
        go(tmp_path, setting)


# ---- folders


@pytest.mark.parametrize(
    "folder",
    ["new/deeper/still", "über-\N{SNOWMAN}", "with space", "x" * 255, "\udcff\udcfe"],
    ids=["missing", "unicode", "space", "long", "not UTF-8"],
)
def test_a_run_makes_the_folder_that_it_needs(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(monkeypatch, *COMMAND, f'hydra.run.dir="{tmp_path / folder}"') == 0
    assert described(tmp_path / folder)["status"] == "completed"


@pytest.mark.parametrize("folder", ["x" * 256, "y/" * 2100], ids=["name", "path"])
def test_a_folder_that_cannot_be_is_one_line(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert command(monkeypatch, *COMMAND, f'hydra.run.dir="{tmp_path}/{folder}"') == 2
    error = capsys.readouterr().err
    assert error.startswith("bilevel-run: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("present", [False, True], ids=["missing", "present"])
def test_a_read_only_folder_is_one_line(
    present: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    with small_disk(100, tmp_path) as disk:
        (disk / "run").mkdir(exist_ok=present) if present else None
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert command(monkeypatch, *COMMAND, f"hydra.run.dir={disk}/run") == 2
        error = capsys.readouterr().err
        assert "Read-only file system" in error
        assert len(error.splitlines()) == 1
        with pytest.raises(UsageError, match="A run needs a folder that it can write"):
            go(disk / "run")


def test_files_are_made_where_they_belong_and_not_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with small_disk(100, tmp_path) as disk:
        go(disk / "run")
        assert described(disk / "run")["status"] == "completed"


def test_a_clock_that_jumps_back_changes_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "steady")
    now = time.time()
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(jumps))
    go(tmp_path / "jumping", "outer_steps=6")
    go(tmp_path / "jumping")
    check_alike(tmp_path / "steady", tmp_path / "jumping")
    seconds = pd.read_csv(tmp_path / "jumping" / "train.csv")["seconds"]
    assert seconds.is_monotonic_increasing
    assert seconds.iloc[0] > 0

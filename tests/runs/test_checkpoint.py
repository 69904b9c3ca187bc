"""Checkpoints are whole or refused, no larger than what they hold, and never executed."""

import copy
import errno
import json
import logging
import os
import pickle
import random
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import BOMBS, refused, seal
from torch.utils._pytree import tree_leaves, tree_structure
from waits import nobody_waits

from bilevel_cli.runs import checkpoint

STATE: dict[str, Any] = {
    "step": 3,
    "seconds": 1.5,
    "name": "quadratic",
    "none": None,
    "outer": {"lam": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    "carry": {"inner": {"inner": {"z": torch.zeros(2, 3)}, "count": torch.tensor(4.0)}},
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]},
    "sampling": torch.Generator().manual_seed(7).get_state(),
}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class Execution:
    """What a pickle of it runs when it is loaded in full."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


def test_a_checkpoint_loads_as_it_was_saved(path: Path) -> None:
    checkpoint.save(path, STATE)
    found = checkpoint.load(path)
    assert tree_structure(found) == tree_structure(STATE)
    for leaf, expected in zip(tree_leaves(found), tree_leaves(STATE), strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(leaf, expected, rtol=0, atol=0)
        else:
            assert leaf == expected
    generator = torch.Generator()
    generator.set_state(found["sampling"])
    assert torch.equal(
        torch.rand(5, generator=generator),
        torch.rand(5, generator=torch.Generator().manual_seed(7)),
    )
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_an_optimizer_goes_on_from_its_checkpoint(path: Path) -> None:
    def step(optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        x.grad = x**3
        optimizer.step()

    x = torch.tensor([1.0, -2.0])
    optimizer = torch.optim.Adam([x], lr=0.1)
    step(optimizer, x)
    checkpoint.save(path, {"x": x, "optimizer": optimizer.state_dict()})
    found = checkpoint.load(path)
    other = torch.optim.Adam([found["x"]], lr=0.1)
    other.load_state_dict(found["optimizer"])
    for _ in range(2):
        step(optimizer, x)
        step(other, found["x"])
    assert torch.equal(x, found["x"])


def test_a_tensor_that_needs_a_gradient_is_saved_without_it(path: Path) -> None:
    with torch.enable_grad():
        lam = torch.ones(2, requires_grad=True)
        checkpoint.save(path, {"lam": lam, "attached": 2 * lam})
    assert not any(value.requires_grad for value in checkpoint.load(path).values())


@pytest.mark.parametrize("culprit", ["save", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, culprit: str
) -> None:
    checkpoint.save(path, {"step": 1})
    save = torch.save

    def half(state: Any, file: Any) -> None:
        save(state, file)
        file.truncate(100)
        raise OSError("no space left")

    def fail(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(*((torch, "save", half) if culprit == "save" else (os, culprit, fail)))
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    monkeypatch.undo()
    assert not path.with_suffix(".partial").exists()  # a full disk has that much again
    checkpoint.save(path, {"step": 3})
    assert checkpoint.load(path) == {"step": 3}
    assert names(path.parent) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_a_new_checkpoint_is_on_disk_before_it_takes_the_place_of_the_old(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, {"step": 1})
    events: list[tuple[str, str]] = []
    files = {path.stat().st_ino: "old", path.parent.stat().st_ino: "folder"}
    replace = os.replace

    def noted_replace(source: Path, target: Path) -> None:
        events.append((files.get(source.stat().st_ino, "new"), target.name))
        replace(source, target)

    def noted_sync(descriptor: int) -> None:
        events.append((files.get(os.fstat(descriptor).st_ino, "new"), "disk"))

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    checkpoint.save(path, STATE)
    assert events == [
        ("new", "disk"),
        ("old", "checkpoint.previous.pt"),
        ("new", "checkpoint.pt"),
        ("folder", "disk"),
    ]


def test_a_view_is_saved_without_what_it_is_a_view_of(path: Path) -> None:
    whole = torch.zeros(1_000_000)
    views = {"views": [whole[:2], {"again": whole[5:7]}], "expanded": whole[:1].expand(4, 250)}
    checkpoint.save(path, views)
    # 8 MB behind 1004 numbers: 8 kB of them, and the archive's own few.
    assert path.stat().st_size < 20_000
    torch.testing.assert_close(checkpoint.load(path), views, rtol=0, atol=0)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("protocol", [None, 2, 4])  # None: as torch packs it
def test_a_checkpoint_is_never_executed(path: Path, sealed: bool, protocol: int | None) -> None:
    trace = path.parent / "executed"
    if protocol is None:
        torch.save({"step": Execution(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"step": Execution(trace)}, protocol=protocol))
    if sealed:
        seal(path)
    message = refused(path)
    assert not trace.exists()
    if sealed and protocol is None:
        assert "it holds posix.mkdir." in message
    if protocol:
        pickle.loads(path.read_bytes())
        assert trace.exists()  # as it would have been


@pytest.mark.parametrize("value", [np.float64(1), {1, 2}, Path("x"), bytearray(3), torch.float32])
def test_what_could_not_be_read_again_is_not_written(path: Path, value: Any) -> None:
    checkpoint.save(path, {"step": 1})
    with pytest.raises(ValueError, match=r"A checkpoint needs tensors, numbers, .* got \w+\.\w+"):
        checkpoint.save(path, {"step": 2, "other": [value]})
    assert checkpoint.load(path) == {"step": 1}
    assert names(path.parent) == ["checkpoint.pt"]


@pytest.fixture
def two(path: Path) -> Path:
    """A checkpoint of STATE, behind it one of step 2."""
    checkpoint.save(path, STATE | {"step": 2})
    checkpoint.save(path, STATE)
    return path


def damaged(whole: bytes) -> list[bytes]:
    """The file with a bit flipped at 200 offsets and in all of its last line, or cut short."""
    random.seed(0)
    body = len(whole) - checkpoint.LINE
    # The ends, where the headers of the archive are, and others between.
    chosen = {*range(40), *range(body - 40, body), *random.sample(range(40, body - 40), 120)}
    files = []
    for at in [*chosen, *range(body, len(whole))]:
        file = bytearray(whole)
        file[at] ^= 1 << random.randrange(8)
        files.append(bytes(file))
    sizes = [*range(0, 200, 7), *random.sample(range(200, body), 50), *range(body, len(whole))]
    files += [whole[:size] for size in sizes]
    return [*files, whole + b"\n", whole + whole, whole[1:], bytes(len(whole))]


def test_a_flipped_bit_or_a_cut_is_found_before_anything_is_unpacked(
    two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = damaged(two.read_bytes())
    behind = torch.load(checkpoint.previous(two))
    read: list[Path] = []

    def load(path: Path, **options: Any) -> Any:
        read.append(path)
        return copy.deepcopy(behind)

    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setattr(checkpoint, "_foreign", lambda archive: "")
    for number, file in enumerate(files, start=1):
        two.write_bytes(file)
        caplog.clear()
        assert checkpoint.load(two)["step"] == 2
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"{two}, which cannot be read: it" in record.getMessage()
        assert "continues from checkpoint.previous.pt" in record.getMessage()
        assert read == number * [checkpoint.previous(two)]
    checkpoint.previous(two).unlink()
    for file in files:
        two.write_bytes(file)
        refused(two)
    assert len(read) == len(files)


def test_where_both_are_damaged_both_are_named(two: Path) -> None:
    os.truncate(two, 100)
    os.truncate(checkpoint.previous(two), 0)
    message = refused(two)
    assert str(checkpoint.previous(two)) in message
    with pytest.raises(ValueError, match="needs a whole checkpoint"):
        checkpoint.resume(two)
    assert names(two.parent) == ["checkpoint.previous.pt", "checkpoint.pt"]  # neither removed


def test_a_file_that_only_its_owner_could_have_damaged_is_not_passed_over(two: Path) -> None:
    torch.save({"step": {1, 2}}, two)
    seal(two)  # whole, and not a checkpoint: going back silently would hide it
    assert "it holds __builtin__.set." in refused(two)


def test_a_checkpoint_of_version_0_1_0_is_refused_by_name(path: Path) -> None:
    torch.save({"step": 3}, path)
    assert "it was cut short or is of version 0.1.0" in refused(path)


def test_without_a_checkpoint_there_is_nothing_to_continue(path: Path) -> None:
    assert not checkpoint.exists(path)
    assert checkpoint.resume(path) is None
    with pytest.raises(FileNotFoundError):
        checkpoint.load(path)
    path.with_suffix(".partial").write_bytes(b"PK")  # of a run killed at its first checkpoint
    assert not checkpoint.exists(path)
    assert checkpoint.resume(path) is None
    assert names(path.parent) == []


def test_a_checkpoint_is_not_called_damaged_where_memory_is_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **settings: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    checkpoint.save(path, STATE)
    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        checkpoint.load(path)


@pytest.mark.gpu
def test_a_save_waits_for_a_gpu_once_however_many_tensors_there_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"carry": [{"z": torch.randn(2, 3)[:, :2], "lone": torch.tensor(n)} for n in range(20)]}
    checkpoint.save(path, state)
    expected, waits, synchronize = path.read_bytes(), [], torch.cuda.synchronize

    def counted(*given: Any) -> None:
        waits.append(given)
        synchronize(*given)

    monkeypatch.setattr(torch.cuda, "synchronize", counted)
    there = {"carry": [{n: x.cuda() for n, x in part.items()} for part in state["carry"]]}
    with nobody_waits():  # but for explicit waits, which are counted
        checkpoint.save(path, there)
    assert len(waits) == 1
    assert path.read_bytes() == expected


def test_a_damaged_checkpoint_is_never_kept_in_the_place_of_a_whole_one(two: Path) -> None:
    os.truncate(two, 100)
    found = checkpoint.resume(two)
    assert found is not None
    assert found["step"] == 2
    assert names(two.parent) == ["checkpoint.pt"]
    checkpoint.save(two, {"step": 4})
    os.truncate(two, 100)
    assert checkpoint.load(two)["step"] == 2


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from bilevel_cli.runs import checkpoint

os.fsync = lambda descriptor: None  # a kill spares what the system has; the disk is slow

def state(step):
    return {"step": step, "x": torch.full((500,), float(step))}

def killed_at(point, path):
    # Dies before or after one of the calls that a save makes, counted from 0.
    calls = []
    def hooked(real):
        def call(*args):
            if len(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(real)
            found = real(*args)
            if len(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(real)
            return found
        return call
    for module, name in ((torch, "save"), (os, "fsync"), (os, "replace")):
        setattr(module, name, hooked(getattr(module, name)))
    checkpoint.save(path, state(3))
    os._exit(0)

def fork(work, *args):
    child = os.fork()
    if child == 0:
        work(*args)
    return child

def resumed(path):
    there = checkpoint.exists(path)
    found = checkpoint.resume(path)
    whole = found is None or torch.equal(found["x"], state(found["step"])["x"])
    rest = sorted(file.name for file in path.parent.iterdir())
    return {"there": there, "step": found and found["step"], "whole": whole, "files": rest}

def forever(path, pipe):
    step = 2
    while True:
        step += 1
        checkpoint.save(path, state(step))
        os.write(pipe, step.to_bytes(4, "big"))

root, seen = Path(sys.argv[1]), {"points": [], "moments": []}
for before in (0, 1, 2):
    for point in range(11):
        path = root / f"{before}-{point}" / "checkpoint.pt"
        path.parent.mkdir()
        for step in range(3 - before, 3):
            checkpoint.save(path, state(step))
        _, status = os.waitpid(fork(killed_at, point, path), 0)
        died = os.WIFSIGNALED(status)
        seen["points"].append({"before": before, "died": died, "point": point, **resumed(path)})
random.seed(0)
for moment in range(40):
    path = root / f"at-{moment}" / "checkpoint.pt"
    path.parent.mkdir()
    checkpoint.save(path, state(2))
    reading, writing = os.pipe()
    child = fork(forever, path, writing)
    told = b"".join(os.read(reading, 4) for _ in range(moment % 4))  # it is under way
    time.sleep(random.uniform(0, 0.003))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    told += os.read(reading, 1 << 20)
    os.close(reading)
    last = int.from_bytes(told[-4:], "big") if told else 2
    seen["moments"].append({"last": last, **resumed(path)})
print(json.dumps(seen))
"""


def test_killed_at_any_point_of_a_save_a_run_has_the_newest_whole_checkpoint(
    tmp_path: Path,
) -> None:
    # In a process of its own, which is free to fork.
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    output = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    seen = json.loads(output)
    for found in seen["points"]:
        assert found["whole"], found
        # Without a checkpoint before it, a save renames once.
        calls = 4 + (found["before"] > 0)
        assert found["died"] == (found["point"] < 2 * calls), found
        done = found["point"] >= 2 * calls - 3  # the new one is in its place
        old = 2 if found["before"] else None
        assert found["step"] == (3 if done else old), found
        assert found["there"] == (found["step"] is not None)
        assert "checkpoint.partial" not in found["files"]
    assert len(seen["points"]) == 33
    for found in seen["moments"]:
        assert found["whole"], found
        assert found["step"] in (found["last"], found["last"] + 1), found
        assert "checkpoint.partial" not in found["files"]
    assert len({found["last"] for found in seen["moments"]}) > 1  # they differ


def test_a_full_disk_is_reported_as_such_and_leaves_the_old_checkpoint(path: Path) -> None:
    checkpoint.save(path, STATE)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for limit in [0, 1, 64, 300, *range(500, size, 500), size - 1]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(OSError, match="File too large") as error:
                checkpoint.save(path, STATE | {"step": 4})
            assert error.value.errno == errno.EFBIG
            assert names(path.parent) == ["checkpoint.pt"]
            assert checkpoint.load(path)["step"] == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoint.save(path, STATE | {"step": 4})
    assert checkpoint.load(path)["step"] == 4


def test_a_folder_that_cannot_be_synchronised_is_not_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, code = os.fsync, errno.EINVAL

    def other(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == path.parent.stat().st_ino:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", other)
    checkpoint.save(path, {"step": 1})
    assert checkpoint.load(path) == {"step": 1}
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.save(path, {"step": 2})


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_file_is_refused_in_the_memory_of_its_size(path: Path, bomb: str) -> None:
    write, reason = BOMBS[bomb]
    write(path)
    seal(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    message = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason in message
    assert peak < 4e6 + 3 * path.stat().st_size
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 1024 * grown < 30e6 + 3 * path.stat().st_size


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert "it is not a file" in refused(path)


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ValueError, match="needs a whole checkpoint, got"):
        checkpoint.load(path)


def test_tensors_move_to_a_device_and_the_rest_stays() -> None:
    tree: Any = {"a": torch.ones(2), "b": {"c": torch.zeros(()), "d": 3, "e": None}, "f": "text"}
    found = checkpoint.to_device(tree, torch.device("meta"))
    assert found["a"].device.type == found["b"]["c"].device.type == "meta"
    assert (found["b"]["d"], found["b"]["e"], found["f"]) == (3, None, "text")
    assert tree["a"].device.type == "cpu"
    assert checkpoint.to_device(7, torch.device("meta")) == 7


@pytest.mark.parametrize("content", [b"", b"step,loss\n1,0.5\n", b"\x80\x02]q\x00.", bytes(300)])
def test_whatever_lies_in_its_place_is_refused_in_one_way(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="A run that continues needs a whole checkpoint"):
        checkpoint.load(path)

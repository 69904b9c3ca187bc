"""A run whose files are damaged, shared or taken away says so, or goes on as if they were not."""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.core import utils
from test_faults import at_step, check_alike, close_log, described, go
from test_faults import command as ended

from bilevel_cli.errors import Failed, Removed, Unwritten, UsageError
from bilevel_cli.runs import checkpoint
from bilevel_cli.runs.runner import Runner
from bilevel_cli.vocabulary import CHECKPOINT

COMMAND = ["task=quadratic", "device=cpu", "inner_steps=2", "log_every=1", "eval_every=3"]
COMMAND += ["save_every=2", "outer_steps=12"]
Change = Callable[[Callable[[Runner], None]], None]
Captured = pytest.CaptureFixture[str]
Damage = Callable[[Path, Path, random.Random], object]


def content(path: Path) -> bytearray:
    return bytearray(path.read_bytes())


def flip(path: Path, other: Path, moments: random.Random) -> None:
    found = content(path)
    for at in moments.sample(range(len(found)), min(3, len(found))):
        found[at] ^= 1 << moments.randrange(8)
    path.write_bytes(found)


def cut(path: Path, other: Path, moments: random.Random) -> None:
    os.truncate(path, moments.randrange(path.stat().st_size))


def begin_later(path: Path, other: Path, moments: random.Random) -> None:
    found = content(path)
    path.write_bytes(found[moments.randrange(1, len(found)) :])


def zero(path: Path, other: Path, moments: random.Random) -> None:
    found = content(path)
    at = moments.randrange(len(found))
    path.write_bytes(found[:at] + bytes(len(found) - at))


def repeat(path: Path, other: Path, moments: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    at = moments.randrange(len(lines))
    path.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))


def grow(path: Path, other: Path, moments: random.Random) -> None:
    path.write_bytes(path.read_bytes() + b"7,0.1,0.2\n\0\xff")


def swap(path: Path, other: Path, moments: random.Random) -> None:
    neighbours = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    neighbour = moments.choice(neighbours)
    one, two = path.read_bytes(), neighbour.read_bytes()
    path.write_bytes(two)
    neighbour.write_bytes(one)


def link(path: Path, other: Path, moments: random.Random) -> None:
    shutil.copy(path, path.with_name("elsewhere"))
    path.unlink()
    path.symlink_to("elsewhere")


def forget(path: Path, other: Path, moments: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[moments.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def hard_link(path: Path, other: Path, moments: random.Random) -> None:
    (path.parents[1] / f"elsewhere{moments.random()}").hardlink_to(path)


def in_place(make: Callable[[Path], object]) -> Damage:
    def act(path: Path, other: Path, moments: random.Random) -> None:
        path.unlink()
        make(path)

    return act


DAMAGES: dict[str, Damage] = {
    "bits flipped": flip,
    "bits flipped elsewhere": flip,
    "cut": cut,
    "begun later": begin_later,
    "zeros": zero,
    "a line twice": repeat,
    "more at its end": grow,
    "a line deleted": forget,
    "noise": lambda path, other, moments: path.write_bytes(moments.randbytes(path.stat().st_size)),
    "emptied": lambda path, other, moments: os.truncate(path, 0),
    "another run's": lambda path, other, moments: path.write_bytes(other.read_bytes()),
    "swapped": swap,
    "deleted": lambda path, other, moments: path.unlink(),
    "a link": link,
    "a link to nothing": in_place(lambda path: path.symlink_to("nothing")),
    "a hard link": hard_link,
    "a device": in_place(lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))),
    "a folder": in_place(Path.mkdir),
    "a FIFO": in_place(os.mkfifo),
    "a link to itself": in_place(lambda path: path.symlink_to(path.name)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs by the names whole, begun (its first half, completed) and other (of another seed)."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name, more in (
            ("whole", []),
            ("begun", ["outer_steps=6"]),
            ("other", ["outer_steps=6", "seed=1"]),
        ):
            assert ended(patch, *COMMAND, f"hydra.run.dir={root / name}", *more) == 0
    return root


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        *((kind, 7) for kind in ("bits flipped", "a FIFO", "swapped")),
        *(pytest.param(kind, 1, marks=pytest.mark.faults) for kind in DAMAGES),
    ],
)
def test_a_damaged_file_is_recovered_or_refused_in_one_line(
    kind: str,
    every: int,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    """The run goes on from its sixth step to its twelfth, after damage to one of its files."""
    if kind == "a device" and os.geteuid():
        pytest.skip("needs to make a device")
    found = names(runs / "begun")
    assert len(found) * len(DAMAGES) >= 200
    moments = random.Random(kind)
    verdicts = dict.fromkeys(("recovered", "refused"), 0)
    for number, name in enumerate(found):
        if (number + len(kind)) % every:
            continue
        folder = tmp_path / str(number)
        shutil.copytree(runs / "begun", folder)
        DAMAGES[kind](folder / name, runs / "other" / name, moments)
        code = ended(monkeypatch, *COMMAND, f"hydra.run.dir={folder}")
        error = capsys.readouterr().err
        case = f"{kind}: {name}: {code} {error}"
        if code == 0:
            assert not error, case
            check_same(runs / "whole", folder)
            verdicts["recovered"] += 1
            continue
        assert code == 2, case
        assert len(error.splitlines()) == 1, case
        assert Path(name).name in error or "checkpoint" in error or "holds a run" in error, case
        verdicts["refused"] += 1
        if "resume=force drops" in error:
            assert ended(monkeypatch, *COMMAND, "resume=force", f"hydra.run.dir={folder}") == 0
            check_result(runs / "whole", folder)
    print(json.dumps({kind: verdicts}))


def check_same(whole: Path, folder: Path) -> None:
    check_alike(whole, folder)
    check_result(whole, folder)


def check_result(whole: Path, folder: Path) -> None:
    """That a run ended as one that nothing happened to."""
    learned = [torch.load(path / "outer.pt") for path in (whole, folder)]
    for name, value in learned[0].items():
        assert torch.equal(value, learned[1][name])
    assert described(folder)["status"] == "completed"
    for path in (whole / ".hydra").iterdir():
        assert (folder / ".hydra" / path.name).stat().st_size > 0
    assert [checkpoint.load(path / CHECKPOINT)["step"] for path in (whole, folder)] == [12, 12]


# ---- damaged rows


def rows(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


@pytest.mark.parametrize("name", ["train.csv", "eval.csv"])
def test_force_drops_the_damaged_rows_and_says_how_many(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go(tmp_path / "whole")
    go(tmp_path / "run", "outer_steps=6")
    path = tmp_path / "run" / name
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], lines[1].replace(b".", b",", 1), *lines[2:]]))
    damaged = path.read_bytes()
    with pytest.raises(UsageError, match=r"edited or replaced.*resume=force drops the damaged"):
        go(tmp_path / "run")
    assert path.read_bytes() == damaged
    go(tmp_path / "run", "resume=force")
    assert f"{name}: 1 of {len(lines) - 1} rows are damaged or missing, and dropped" in caplog.text
    assert path.with_suffix(".damaged.csv").read_bytes() == damaged
    left = rows(tmp_path / "run", name)
    assert left[: len(lines) - 1] == [line.decode().rstrip() for line in (lines[0], *lines[2:])]
    assert len(left) == len(rows(tmp_path / "whole", name)) - 1
    learned = [torch.load(tmp_path / run / "outer.pt") for run in ("whole", "run")]
    assert all(torch.equal(value, learned[1][key]) for key, value in learned[0].items())
    go(tmp_path / "run")  # what is left is whole now


def test_the_last_scores_are_measured_again_where_their_row_is_damaged(tmp_path: Path) -> None:
    go(tmp_path)
    path = tmp_path / "eval.csv"
    before = pd.read_csv(path).drop(columns="seconds")
    path.write_bytes(path.read_bytes()[:-3])
    go(tmp_path, "resume=force")
    pd.testing.assert_frame_equal(pd.read_csv(path).drop(columns="seconds"), before)


@pytest.mark.parametrize("name", ["train.csv", "eval.csv"])
def test_a_table_without_its_header_loses_all_rows_and_the_run_goes_on(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go(tmp_path, "outer_steps=6")
    path = tmp_path / name
    count = len(rows(tmp_path, name)) - 1
    path.unlink()
    go(tmp_path, "resume=force")
    assert f"{name}: {count} of {count} rows are damaged or missing, and dropped." in caplog.text
    assert pd.read_csv(path)["step"].iloc[-1] == 12


def test_an_older_checkpoint_without_marks_loses_all_rows(tmp_path: Path) -> None:
    go(tmp_path, "outer_steps=6")
    state = checkpoint.load(tmp_path / CHECKPOINT)
    state["tables"] = {name: position[:2] for name, position in state["tables"].items()}
    checkpoint.save(tmp_path / CHECKPOINT, state)
    shutil.copytree(tmp_path, tmp_path / "copy")
    go(tmp_path / "copy")  # as it always did
    path = tmp_path / "train.csv"
    path.write_bytes(path.read_bytes().replace(b"\n2,", b"\n9,"))
    go(tmp_path, "resume=force")
    assert pd.read_csv(path)["step"].tolist() == list(range(7, 13))


# ---- two runs without locks


def test_a_run_stops_where_another_one_writes_to_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Change
) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    go(tmp_path / "whole")
    begun: list[int] = []

    def another(runner: Runner) -> None:
        begun.append(len(begun))
        if begun == [0]:
            at_step(runner, 7, lambda: go(tmp_path / "run"))

    changed(another)
    with pytest.raises(Unwritten, match=r"not as the run left it: another run or program wrote"):
        go(tmp_path / "run")
    # The second one went on from the checkpoint of the first, and its notes stay.
    check_alike(tmp_path / "whole", tmp_path / "run")
    assert described(tmp_path / "run")["status"] == "completed"


TWO = """
import fcntl, sys
def refuse(*given):
    raise OSError(37, "No locks available")
fcntl.flock = refuse
from bilevel_cli.commands import run
run.main()
"""


@pytest.mark.faults
def test_two_processes_without_locks_never_mix_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [*COMMAND, "outer_steps=500", "save_every=1000"]
    for seed in (0, 1):
        alone = [f"seed={seed}", f"hydra.run.dir={tmp_path / str(seed)}"]
        assert ended(monkeypatch, *long, *alone) == 0
    program = [sys.executable, "-c", TWO, *long, f"hydra.run.dir={tmp_path / 'run'}"]
    both = [
        subprocess.Popen([*program, f"seed={seed}"], stderr=subprocess.PIPE, text=True)
        for seed in (0, 1)
    ]
    errors = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert set(codes) <= {0, 2, 3}, errors
    assert all(
        len(error.splitlines()) == (code > 0) for error, code in zip(errors, codes, strict=True)
    )
    for name in ("train.csv", "eval.csv"):
        numbers = [
            pd.read_csv(tmp_path / run / name).drop(
                columns=["seconds", "peak_memory_mb"], errors="ignore"
            )
            for run in ("run", "0", "1")
        ]
        count = len(numbers[0])
        assert any(numbers[0].equals(one.head(count)) for one in numbers[1:]), codes


# ---- what goes away, and what stays behind


@pytest.mark.parametrize("what", ["", "train.csv", "eval.csv"])
def test_a_run_whose_folder_goes_away_ends_with_3_and_points_nowhere(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, changed: Change
) -> None:
    folder = tmp_path / "run"

    def remove() -> None:
        (folder / what).unlink() if what else shutil.rmtree(folder)

    changed(lambda runner: at_step(runner, 7, remove))
    assert ended(monkeypatch, *COMMAND, f"hydra.run.dir={folder}") == 3
    error = capsys.readouterr().err
    assert f"A run needs {folder / what}, which was removed or renamed" in error
    assert len(error.splitlines()) == 1
    assert "traceback" not in error
    assert folder.exists() == bool(what)
    assert not (folder / "traceback.txt").exists()
    close_log()


def test_a_checkpoint_without_a_folder_is_a_folder_that_went_away(
    tmp_path: Path, changed: Change
) -> None:
    def spoil(runner: Runner) -> None:
        at_step(runner, 5, lambda: shutil.rmtree(tmp_path / "run"))

    changed(spoil)
    with pytest.raises(Removed, match="run, which was removed"):
        go(tmp_path / "run", "log_every=100", "eval_every=100")


def test_a_folder_that_goes_away_before_its_log_is_there_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    real = utils.configure_log

    def removed(*given: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        real(*given)

    monkeypatch.setattr(utils, "configure_log", removed)
    assert ended(monkeypatch, *COMMAND, f"hydra.run.dir={tmp_path / 'run'}") == 3
    error = capsys.readouterr().err
    assert f"A run needs {tmp_path / 'run'}, which was removed or renamed" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_traceback_goes_when_the_run_goes_on(tmp_path: Path, changed: Change) -> None:
    failing = [True]

    def fail() -> None:
        if failing[0]:
            raise RuntimeError("on purpose")

    changed(lambda runner: at_step(runner, 5, fail))
    with pytest.raises(Failed, match=f"on purpose.* The traceback is in {tmp_path}"):
        go(tmp_path)
    assert "on purpose" in (tmp_path / "traceback.txt").read_text()
    failing[0] = False
    go(tmp_path)
    assert not (tmp_path / "traceback.txt").exists()
    assert not list(tmp_path.glob("*.partial"))

"""A run in a folder that somebody else prepared writes nowhere else, and waits for nothing."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import bilevel_run
from test_faults import close_log
from writing import written

from bilevel_cli.commands import check, labels, report
from bilevel_cli.errors import UsageError
from bilevel_cli.records import folder as records
from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.lock import hold
from bilevel_cli.sweeps.outcome import noting

Captured = pytest.CaptureFixture[str]
TINY = ["task=quadratic", "device=cpu", "inner_steps=1", "outer_steps=2", "log_every=1"]
TINY += ["save_every=1", "metrics=[]"]
VICTIM = b"my only copy"


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def link(path: Path) -> None:
    path.symlink_to(victim(path))


def hard_link(path: Path) -> None:
    path.hardlink_to(victim(path))


def link_to_nothing(path: Path) -> None:
    path.symlink_to(victim(path).with_name("nothing"))


def link_to_a_folder(path: Path) -> None:
    elsewhere = victim(path).with_name("elsewhere")
    elsewhere.mkdir(exist_ok=True)
    path.symlink_to(elsewhere)


def device(path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs to make a device")
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def victim(path: Path) -> Path:
    """A file beside the folder of the run, which every test calls `run`."""
    (run,) = (parent for parent in path.parents if parent.name == "run")
    return run.with_name("victim")


KINDS: dict[str, Callable[[Path], None]] = {
    "a symbolic link to": link,
    "a symbolic link to nothing": link_to_nothing,
    "a symbolic link to a folder": link_to_a_folder,
    "a file with 2 names": hard_link,
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": bind,
    "a device": device,
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All under which the command writes in the folder of a run, as it goes on and fails."""
    folder = tmp_path_factory.mktemp("names") / "run"
    with pytest.MonkeyPatch.context() as patch, written(folder) as found:
        assert command(patch, folder) == 0
        assert command(patch, folder, "outer_steps=3", "optimizer.lr=1e400") != 0
        with patch.context() as failing:
            failing.setattr("bilevel_cli.runs.evaluation.scores", lambda state: 1 / 0)
            assert command(patch, folder, "outer_steps=4") == 1
    known = {name for name in found if not name.startswith(("result.partial", "tensorboard/"))}
    for name in ("lock", "manifest.partial", "checkpoint.partial", "traceback.txt", "bilevel.log"):
        assert name in known, "the hook hears of what is written"
    assert {".hydra/config.yaml", "train.csv", "outer.pt", ".hydra"} <= known
    return sorted(known)


def command(patch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    try:
        return bilevel_run(patch, *TINY, f"hydra.run.dir={folder}", *more)
    finally:
        close_log()


def prepared(folder: Path, name: str, kind: str) -> Path:
    """A folder in which something else than a file, or than a folder, has a name."""
    path = folder / name
    path.parent.mkdir(parents=True)
    victim(path).write_bytes(VICTIM)
    KINDS[kind](path)
    return path


def fits(name: str, kind: str) -> bool:
    return kind == "a folder" and name in (".hydra", "result.partial")


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_run_would_write_to_is_a_file_of_its_own_or_refused(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    """Each name by itself, without a run."""
    for number, name in enumerate(names):
        folder = tmp_path / str(number) / "run"
        path = prepared(folder, name, kind)
        if fits(name, kind):
            records.check(folder)
            continue
        if kind == "a file with 2 names" and name not in records.WRITTEN_INTO:
            if name.startswith((".hydra/", "bilevel.log")):
                with pytest.raises(UsageError, match="a file with 2 names"):
                    records.check(folder)
            elif name != ".hydra":  # it is replaced: the other name keeps what it had
                with replaced(path) as partial:
                    partial.write_text("new")
                assert victim(path).read_bytes() == VICTIM
            continue
        with pytest.raises(UsageError) as refused:
            look(folder, path)
        check_message(str(refused.value), path, kind)
        assert victim(path).read_bytes() == VICTIM


def look(folder: Path, path: Path) -> None:
    records.check(folder)
    records.check_result(path)


def check_message(message: str, path: Path, kind: str) -> None:
    assert f"{path} for a " in message
    assert kind.removesuffix(" nothing").removesuffix(" a folder") in message
    if "link to" in kind:
        assert str(path.readlink()) in message
    assert len(message.splitlines()) == 1
    assert "Remove it" in message


def everything(seed: int, count: int) -> list[tuple[int, str]]:
    """Every so many of the numbers of names, each with kinds that come in turn."""
    kinds = list(KINDS)
    return [(number, kinds[(number + seed) % len(kinds)]) for number in range(0, 40, count)]


@pytest.mark.parametrize(
    "cases",
    [
        everything(0, 8),
        *(
            pytest.param(everything(seed, 1), marks=pytest.mark.faults)
            for seed in range(len(KINDS))
        ),
    ],
)
def test_the_command_refuses_in_one_line_and_changes_nothing_outside(
    cases: list[tuple[int, str]],
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    for number, kind in cases:
        if number >= len(names) or fits(names[number], kind):
            continue
        folder = tmp_path / str(number) / "run"
        path = prepared(folder, names[number], kind)
        before = {entry.name for entry in folder.parent.iterdir()}
        code = command(monkeypatch, folder)
        error = capsys.readouterr().err
        assert victim(path).read_bytes() == VICTIM, (names[number], kind)
        assert {entry.name for entry in folder.parent.iterdir()} == before
        assert not list((folder.parent / "elsewhere").glob("*"))
        if code == 0:  # the file was replaced, and had another name
            assert kind == "a file with 2 names"
            continue
        assert code == 2, (names[number], kind, error)
        assert len(error.splitlines()) == 1
        if kind == "a file with 2 names" and names[number].startswith("checkpoint"):
            assert "needs a whole checkpoint" in error
            continue
        check_message(error, path, kind)
        if names[number] != "outer.pt":
            assert not (folder / "train.csv").is_file() or path.name == "train.csv", "no work yet"


def test_the_folder_itself_may_be_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "scratch")
    assert command(monkeypatch, tmp_path / "outputs") == 0
    assert (tmp_path / "scratch" / "outer.pt").is_file()
    (tmp_path / "scratch" / "mine.csv").symlink_to(tmp_path)  # of a name that no run writes
    assert command(monkeypatch, tmp_path / "outputs") == 0


SWEEP = ["seed=0", "seed=0/lock", "seed=0/.hydra/config.yaml"]


@pytest.mark.parametrize(
    "name",
    [
        "multirun.yaml",
        "seed=0/job.json",
        *(pytest.param(n, marks=pytest.mark.faults) for n in SWEEP),
    ],
)
def test_a_sweep_is_refused_before_any_job_is_launched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    folder = tmp_path / "run"
    path = prepared(folder, name, "a symbolic link to")
    sweep = ["-m", "seed=1,0", f"hydra.sweep.dir={folder}", "hydra.sweep.subdir='seed=${seed}'"]
    assert bilevel_run(monkeypatch, *TINY, *sweep) == 2
    close_log()
    error = capsys.readouterr().err
    check_message(error, path, "a symbolic link to")
    assert victim(path).read_bytes() == VICTIM
    assert not list(folder.glob("*/train.csv"))


def test_a_replica_does_not_write_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    folder = tmp_path / "run"
    path = prepared(folder, "seed=1", "a symbolic link to a folder")
    assert command(monkeypatch, folder, "replicas=2") == 2
    check_message(capsys.readouterr().err, path, "a symbolic link to a folder")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_locks_and_notes_follow_no_link_that_comes_after_the_look(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name, taken in (("lock", hold), ("job.json", noting)):
        path = prepared(folder / name, name, "a symbolic link to")
        with pytest.raises(OSError, match="symbolic links"):
            taken(path.parent).__enter__()
        assert victim(path).read_bytes() == VICTIM


def test_the_name_of_a_link_and_where_it_leads_cannot_break_the_line(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("\x1b[2J\nbilevel-run: all is well" + "x" * 300)
    with pytest.raises(UsageError) as refused:
        records.check(tmp_path)
    message = str(refused.value)
    assert r"got a symbolic link to \x1b[2J bilevel-run: all is well" in message
    assert message.isprintable()
    assert len(message) < 400


NOT_FILES = [kind for kind in KINDS if kind not in ("a file with 2 names", "a folder")]


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (labels, ["t.csv", "--target", "y", "--force", "--out"]),
        (labels, ["t.csv", "--target", "y", "--force", "--html"]),
        *((report, [".", f"--{option}"]) for option in ("csv", "latex", "html", "figure")),
        (check, ["method=iaptt", "--csv"]),
    ],
)
def test_an_output_that_a_user_names_is_a_file_or_refused(
    module: Any,
    arguments: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    path = prepared(tmp_path / "run", "named/o.csv", kind)
    monkeypatch.setattr("sys.argv", ["command", *arguments, str(path)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"{arguments[-1]} needs a file, got" in error or "in a folder that is there" in error
    assert error.count("\n") == 1
    assert os.path.lexists(path)
    assert victim(path).read_bytes() == VICTIM


def test_what_is_open_already_may_be_named_but_not_replaced() -> None:
    for name in ("/dev/stdout", "/dev/null", "/dev/fd/1"):
        records.check_output(Path(name), "--csv")
        with pytest.raises(UsageError, match=rf"--out needs a file, got {name}, which is a"):
            records.check_output(Path(name), "--out", whole=True)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (labels, ["t.csv", "--target", "y", "--out", "o", "--html", "./o"]),
        (report, [".", "--csv", "o", "--latex", "./o"]),
    ],
)
def test_two_outputs_have_a_file_each(
    module: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert "need a file each, got o" in capsys.readouterr().err

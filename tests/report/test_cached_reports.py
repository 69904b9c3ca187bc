"""The cache of what was read: the same report, from fewer files, whatever happens to the cache."""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pages import method_at, run_at

from bilevel_cli.records.user_cache import NOWHERE, user_cache
from bilevel_cli.report.read import bounded, cache, contents, runs, tables
from bilevel_cli.report.read.runs import Run

METHODS = ("cg", "reverse")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the cache, for files that are settled at once."""
    monkeypatch.setattr(contents, "user_cache", lambda: tmp_path / "home" / "cache")
    monkeypatch.setattr(cache, "SETTLED", -60.0)
    return tmp_path / "home" / "cache" / cache.NAME


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Six whole runs; one of version 0.1, whose choices are in YAML alone; one with a torn row."""
    for method in METHODS:
        method_at(tmp_path / "sweep", method, [0.7, 0.8, 1 / 3])
    run_at(tmp_path / "sweep" / "old", seed=7, choices={"method": "old"})
    torn = run_at(tmp_path / "sweep" / "torn", seed=8) / "train.csv"
    torn.write_bytes(torn.read_bytes()[:-2])
    return tmp_path / "sweep"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of runs that are read, from now on."""
    seen, content = list[str](), bounded.content

    def noted(path: Path | str, *others: Any) -> bytes | None:
        seen.append(str(path))
        return content(path, *others)

    monkeypatch.setattr(bounded, "content", noted)
    return seen


def assert_same(found: Sequence[Run], expected: Sequence[Run]) -> None:
    """Holds runs to others, to the last bit of their numbers."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        known, wanted = dict(vars(one)), dict(vars(other))
        for name in ("train", "evals"):
            pd.testing.assert_frame_equal(known.pop(name), wanted.pop(name), check_exact=True)
        assert known == wanted


def test_a_second_report_reads_no_file_of_runs_and_says_the_same(
    sweep: Path, place: Path, opened: list[str]
) -> None:
    first = runs.read([sweep])
    assert len(opened) == len(set(opened)) == 3 * 8 + 8  # manifests, tables, and choices in YAML
    opened.clear()
    assert_same(runs.read([sweep]), first)
    assert opened == []


def test_with_a_cache_a_report_says_what_it_says_without(
    sweep: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = runs.read([sweep]), runs.read([sweep])
    monkeypatch.setattr(contents, "user_cache", lambda: NOWHERE)
    assert_same(first, runs.read([sweep]))
    assert_same(second, first)


def set_back(path: Path) -> None:
    """Changes a file as a tool does that keeps sizes and times: only the inode knows of it."""
    before = path.stat()
    content = path.read_text()
    path.write_text(content.replace("0.7", "0.6"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replaced(path: Path) -> None:
    other = path.with_suffix(".partial")
    other.write_text(path.read_text().replace("0.7", "0.6"))
    other.replace(path)


def longer(path: Path) -> None:
    with path.open("a") as file:
        file.write("30,60,0.6\n")


@pytest.mark.parametrize("change", [set_back, replaced, longer])
def test_a_file_that_changed_is_read_again(
    change: Callable[[Path], None], sweep: Path, place: Path, opened: list[str]
) -> None:
    runs.read([sweep])
    time.sleep(0.02)  # of clocks that tick every 10 ms
    path = sweep / "cg,seed=0" / "eval.csv"
    change(path)
    opened.clear()
    found = next(run for run in runs.read([sweep]) if run.name == "cg,seed=0")
    assert opened == [str(path)]
    assert found.evals["test_accuracy"].iloc[-1] == 0.6


def test_a_file_that_was_written_a_moment_ago_is_not_kept(
    sweep: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED", 60.0)
    runs.read([sweep])
    opened.clear()
    runs.read([sweep])
    assert len(opened) == 3 * 8 + 8


def test_another_version_of_the_reader_reads_again(
    sweep: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.read([sweep])
    opened.clear()
    monkeypatch.setattr(contents, "version", lambda: "another")
    runs.read([sweep])
    assert len(opened) == 3 * 8 + 8


def test_the_version_of_the_reader_changes_with_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents.version()
    source = tmp_path / "tables.py"
    source.write_text(Path(str(tables.__file__)).read_text() + "\n")
    monkeypatch.setattr(tables, "__file__", str(source))
    assert contents.version() != before


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def flipped(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 0xFF
    path.write_bytes(content)


def zeroed(path: Path, share: float) -> None:
    content = path.read_bytes()
    start = int(share * len(content))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def foreign(path: Path, share: float) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE files (path TEXT, other INTEGER)")
        if share:  # it even says that it is ours
            database.execute(f"PRAGMA application_id = {cache.APPLICATION}")
            database.execute(f"PRAGMA user_version = {cache.LAYOUT}")
    database.close()


def text(path: Path, share: float) -> None:
    path.write_text("no database\n" * int(1 + 1000 * share))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.37, 0.5, 0.73, 0.99, 1.0])
@pytest.mark.parametrize("damage", [cut, flipped, zeroed, foreign, text])
def test_a_damaged_or_foreign_database_changes_no_report_and_is_replaced(
    damage: Callable[[Path, float], None],
    share: float,
    sweep: Path,
    place: Path,
    opened: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = runs.read([sweep])
    damage(place, share)
    assert_same(runs.read([sweep]), first)
    assert_same(runs.read([sweep]), first)
    opened.clear()
    assert_same(runs.read([sweep]), first)
    assert opened == []
    assert capfd.readouterr() == ("", "")


def nothing(place: Path) -> None:
    place.parent.parent.mkdir()
    place.parent.write_text("a file in place of the folder")


def folder(place: Path) -> None:
    place.mkdir(parents=True)


def fifo(place: Path) -> None:
    place.parent.mkdir(parents=True)
    os.mkfifo(place)


def link(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [nothing, folder, fifo, link])
def test_where_no_cache_can_be_a_report_reads_the_runs(
    make: Callable[[Path], None], sweep: Path, place: Path
) -> None:
    make(place)
    for _ in range(2):
        assert len(runs.read([sweep])) == 8
    assert not (place.parent / "elsewhere").exists()


def test_a_cache_that_cannot_be_written_is_read(
    sweep: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.read([sweep])
    run_at(sweep / "new", seed=9)
    connect = sqlite3.connect
    only = f"{place.as_uri()}?mode=ro"
    monkeypatch.setattr(sqlite3, "connect", lambda path, **how: connect(only, uri=True, **how))
    for _ in range(2):
        opened.clear()
        assert len(runs.read([sweep])) == 9
        assert {Path(path).parent.name for path in opened} == {"new", ".hydra"}


def test_while_another_process_has_the_database_a_report_reads_the_runs(
    sweep: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 0.01)
    first = runs.read([sweep])
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert_same(runs.read([sweep]), first)
    other.execute("ROLLBACK")
    other.execute("BEGIN IMMEDIATE")  # it is going to write, and others may still read
    run_at(sweep / "new", seed=9)
    assert len(runs.read([sweep])) == 9
    other.close()
    opened.clear()
    assert_same([run for run in runs.read([sweep]) if run.name != "new"], first)
    assert {Path(path).parent.name for path in opened} == {"new", ".hydra"}


def test_reports_at_once_all_say_the_same(
    sweep: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "AT_ONCE", 1_000)  # so that each writes often
    with ThreadPoolExecutor(4) as pool:
        several = [pool.submit(runs.read, [sweep]) for _ in range(12)]
        first, *others = [one.result() for one in several]
    for found in others:
        assert_same(found, first)


def test_a_cache_that_is_deleted_is_made_again(sweep: Path, place: Path, opened: list[str]) -> None:
    runs.read([sweep])
    place.unlink()
    runs.read([sweep])
    opened.clear()
    runs.read([sweep])
    assert opened == []


def test_the_oldest_entries_make_room(
    tmp_path: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 800_000)
    monkeypatch.setattr(cache, "AT_ONCE", 50_000)
    for number in range(20):
        run_at(tmp_path / "sweep" / f"{number:02}", [0.5] * 1_000, seed=number)
    runs.read([tmp_path / "sweep"])
    assert place.stat().st_size < 800_000 + 3 * 50_000
    opened.clear()
    runs.read([tmp_path / "sweep" / "19"])
    assert not [path for path in opened if path.endswith(".csv")]
    runs.read([tmp_path / "sweep" / "00"])
    assert [path for path in opened if path.endswith(".csv")]


def test_ctrl_c_in_the_midst_of_a_write_leaves_the_cache_as_it_was(
    sweep: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runs.read([sweep])
    run_at(sweep / "new", seed=9)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache, "AT_ONCE", 10)  # so that more would be to write
        patched.setattr(cache, "_make_room", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.read([sweep])
    opened.clear()
    assert_same([run for run in runs.read([sweep]) if run.name != "new"], first)
    assert {Path(path).parent.name for path in opened} == {"new", ".hydra"}


def test_a_user_without_a_home_gets_a_report_and_no_cache(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "user_cache", user_cache)
    monkeypatch.setenv("HOME", "nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def unknown(user: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)  # as in a container of another user
    monkeypatch.chdir(sweep)
    assert len(runs.read([sweep])) == 8
    # Earlier versions of platformdirs answer with a path below the current folder.
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    assert len(runs.read([sweep])) == 8
    assert not {"nowhere", "~"} & {path.name for path in sweep.iterdir()}


def test_nobody_else_may_read_the_cache(sweep: Path, place: Path) -> None:
    runs.read([sweep])
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_report_lists_each_folder_once_and_asks_for_each_file_once(
    sweep: Path, place: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk of a network each question takes a millisecond: 10 s for 10 000 runs."""
    asked: list[tuple[str, str]] = []

    def counted(name: str) -> None:
        usual = getattr(os, name)

        def noting(path: Any, *others: Any, **more: Any) -> Any:
            asked.append((name, str(path)))
            return usual(path, *others, **more)

        monkeypatch.setattr(os, name, noting)

    for one in sweep.iterdir():
        if one.name not in (f"{m},seed={s}" for m in METHODS for s in range(3)):
            for path in sorted(one.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            one.rmdir()
        else:
            manifest = one / "manifest.json"
            manifest.write_text(manifest.read_text()[:-1] + ', "choices": {"method": "cg"}}')
    for name in ("scandir", "stat", "lstat", "open"):
        counted(name)
    for reads in (3 * 6, 0):
        asked.clear()
        runs.read([sweep])
        of_runs = [one for one in asked if one[1].startswith(f"{sweep}/")]
        assert len(of_runs) == len(set(of_runs))
        counts = [sum(kind == name for kind, _ in of_runs) for name in ("scandir", "stat", "lstat")]
        assert counts == [6, 6, 3 * 6]
        assert sum(kind == "open" for kind, _ in of_runs) == reads

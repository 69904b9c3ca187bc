"""Locks: who holds one, who is told so, and file systems that have none."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from bilevel_cli.errors import UsageError
from bilevel_cli.records import lock


def test_a_lock_is_held_as_long_as_its_folder_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock.held(path) is False  # there is no file yet
    with lock.hold(tmp_path):
        assert lock.held(path) is True
        with pytest.raises(UsageError, match=f"in which process {os.getpid()} on"):
            lock.hold(tmp_path).__enter__()
    assert path.exists()
    assert lock.held(path) is False


def test_readers_share_a_lock_and_keep_writers_out(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.touch()
    with path.open() as one, path.open() as two, path.open("r+") as writer:
        assert [lock.take(file.fileno(), shared=True) for file in (one, two)] == [True, True]
        assert lock.take(writer.fileno()) is False
        assert lock.held(path) is False  # readers do not count


def test_to_wait_is_to_wait_for_whoever_holds_the_lock(tmp_path: Path) -> None:
    lock.wait(tmp_path / "lock")  # nobody: there is no file
    waiting = threading.Thread(target=lock.wait, args=(tmp_path / "lock",))
    with lock.hold(tmp_path):
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()


def test_where_there_are_no_locks_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError("no locks available")

    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock.held(path) is None
    with path.open() as file:
        assert lock.take(file.fileno()) is None
    lock.wait(path)

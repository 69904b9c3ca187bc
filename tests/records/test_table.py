"""Tables keep the columns of their first row, and the rows that a checkpoint knows of."""

import csv
import os
import random
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bilevel_cli.records.table import Table, last


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_header_is_the_first_row(path: Path) -> None:
    table = Table(path)
    assert not path.exists()
    table.append({"step": 1, "outer_loss": 0.25})
    table.append({"outer_loss": 0.1, "step": 2})  # in another order
    assert path.read_text() == "step,outer_loss\n1,0.25\n2,0.1\n"


def test_a_number_reads_back_as_it_was(path: Path) -> None:
    table = Table(path)
    numbers = [0.1 + 0.2, 1e-300, -0.0, 2**53 - 1, float("inf")]
    for number in numbers:
        table.append({"x": number})
        assert table.last() == {"x": number}
    assert [float(row["x"]) for row in rows(path)] == numbers


def test_the_last_row_is_the_last_row(path: Path) -> None:
    table = Table(path)
    for step in (1, 2, 3):
        table.append({"step": step, "loss": step / 2})
        assert table.last() == {"step": step, "loss": step / 2}


def test_a_row_can_be_read_before_the_run_ends(path: Path) -> None:
    table = Table(path)
    for count in (1, 2, 3):
        table.append({"step": count})
        assert len(rows(path)) == count
        assert table.size == path.stat().st_size


@pytest.mark.parametrize(
    ("row", "got"),
    [({"step": 2}, "step"), ({"step": 2, "loss": 1.0, "extra": 3.0}, "step, loss, extra")],
)
def test_a_row_with_other_columns_is_refused(path: Path, row: dict[str, float], got: str) -> None:
    table = Table(path)
    table.append({"step": 1, "loss": 0.5})
    before = path.read_bytes(), table.size
    message = f"train.csv needs a row with columns step, loss, got {got}. Report a metric at every"
    with pytest.raises(ValueError, match=message):
        table.append(row)
    assert (path.read_bytes(), table.size) == before
    table.append({"step": 2, "loss": 0.25})
    assert table.last() == {"step": 2, "loss": 0.25}


def test_a_restart_drops_the_rows_after_the_checkpoint_and_goes_on(path: Path) -> None:
    table = Table(path)
    for step in (1, 2):
        table.append({"step": step, "loss": 0.5})
    size, digest = table.size, table.digest
    table.append({"step": 3, "loss": 0.4})
    again = Table(path, size, digest)
    assert again.size == size
    assert again.last() == {"step": 2, "loss": 0.5}
    again.append({"loss": 0.3, "step": 3})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.5\n3,0.3\n"
    with pytest.raises(ValueError, match="needs a row with columns step, loss, got step, gap"):
        Table(path, size, digest).append({"step": 3, "gap": 1.0})


@pytest.mark.parametrize("torn", ["3,0.", '3,"0', "3,0.4\n4", "\0\0\0\0"])
def test_a_restart_drops_a_row_that_a_crash_has_torn(path: Path, torn: str) -> None:
    table = Table(path)
    table.append({"step": 1, "loss": 0.5})
    with path.open("a") as file:
        file.write(torn)
    again = Table(path, table.size, table.digest)
    again.append({"step": 2, "loss": 0.4})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.4\n"


def test_a_restart_without_a_checkpoint_begins_the_file_again(path: Path) -> None:
    Table(path).append({"step": 1, "loss": 0.5})
    table = Table(path)
    table.append({"step": 1, "accuracy": 0.9})
    assert path.read_text() == "step,accuracy\n1,0.9\n"


@pytest.mark.parametrize("left", [0, 5, None])
def test_a_file_shorter_than_the_checkpoint_knows_is_refused(path: Path, left: int | None) -> None:
    table = Table(path)
    table.append({"step": 1, "loss": 0.5})
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    message = f"train.csv needs the 16 bytes that .* got {left or 0}: it was cut or replaced"
    with pytest.raises(ValueError, match=message):
        Table(path, table.size, table.digest)


def written(path: Path, steps: int) -> Table:
    table = Table(path)
    for step in range(1, steps + 1):
        table.append({"step": step, "loss": 1 / step})
    return table


def test_the_digest_is_that_of_the_bytes_and_goes_on_after_a_restart(path: Path) -> None:
    table = written(path, 3)
    size, digest = table.size, table.digest
    assert digest == zlib.crc32(path.read_bytes())
    table.append({"step": 4, "loss": 0.1})
    again = Table(path, size, digest)
    assert again.digest == digest
    again.append({"step": 4, "loss": 0.1})
    assert (again.size, again.digest) == (table.size, table.digest)
    assert again.digest == zlib.crc32(path.read_bytes())
    assert Table(path, 0, 0).digest == 0


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "another header": lambda known: known.replace(b"loss", b"cost"),
    "zeros": lambda known: known[:20] + bytes(len(known) - 20),
    "a row edited": lambda known: known.replace(b"0.5", b"0.6"),
    "rows swapped": lambda known: known.replace(b"2,0.5\n4,0.25\n", b"4,0.25\n2,0.5\n"),
    "a row inserted": lambda known: known.replace(b"2,0.5\n", b"2,0.5\n2,0.5\n"),
    "not text": lambda known: bytes(range(128, 256)) * len(known),
}


@pytest.mark.parametrize("change", FOREIGN)
def test_rows_that_the_checkpoint_does_not_know_are_refused_and_kept(
    path: Path, change: str
) -> None:
    table = Table(path)
    for step in (1, 2, 4):
        table.append({"step": step, "loss": 1 / step})
    known = path.read_bytes()
    path.write_bytes(FOREIGN[change](known) + b"8,0.125\n")
    before = path.read_bytes()
    assert not before.startswith(known)
    message = r"^train.csv needs the rows that .* it was edited or replaced. Restore it, or use"
    with pytest.raises(ValueError, match=message):
        Table(path, table.size, table.digest)
    assert path.read_bytes() == before


def test_every_flipped_bit_of_the_rows_is_found(path: Path) -> None:
    table = written(path, 30)
    known = path.read_bytes()
    random.seed(0)
    for at in range(table.size):
        edited = bytearray(known)
        edited[at] ^= 1 << random.randrange(8)
        with path.open("r+b") as file:
            file.write(edited)
        with pytest.raises(ValueError, match="it was edited or replaced"):
            Table(path, table.size, table.digest)


def test_a_long_table_is_compared_in_little_memory(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"step,loss\n")
        file.truncate(1 << 28)  # 256 MB that take no disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="it was edited or replaced"):
        Table(path, 1 << 28, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@pytest.mark.parametrize("content", [b"image,label\n0,1\n", b"\xff\xfe\x00", b"steps\n1\n"])
def test_a_file_that_no_run_has_begun_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)  # of hydra.run.dir=. in a folder of data
    with pytest.raises(ValueError, match=r"A run needs .*train.csv for itself, .* another hydra"):
        Table(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("left", [b"", b"st", b"step,", bytes(50), b"step,loss\n1,0."])
def test_what_a_run_left_before_its_first_checkpoint_is_begun_again(
    path: Path, left: bytes
) -> None:
    path.write_bytes(left)
    Table(path).append({"step": 1, "loss": 0.5})
    assert path.read_text() == "step,loss\n1,0.5\n"


def test_a_row_that_a_full_disk_cuts_short_is_taken_back(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(table: Table, limit: int, step: int) -> None:
        known, state = path.read_bytes(), (table.size, table.digest)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            for _ in range(2):
                with pytest.raises(OSError, match="File too large"):
                    table.append({"step": step, "loss": 0.125})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == known
        assert (table.size, table.digest) == state

    table = Table(path)
    path.touch()
    for limit in (0, 4, 10, 13):  # before, in and after the header, and in the row
        full(table, limit, 1)
    table.append({"step": 1, "loss": 0.5})
    for more in (0, 1, 4, 7):
        full(table, table.size + more, 2)
    table.append({"step": 2, "loss": 0.25})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.25\n"
    assert Table(path, table.size, table.digest).last() == {"step": 2, "loss": 0.25}


def test_the_last_row_is_read_without_a_table_and_there_may_be_none(path: Path) -> None:
    path.write_text("step,loss\n")
    assert last(path) == {}
    path.write_text("step,loss\n1,0.5\n2,nan\n3,0.25\n")
    assert last(path) == {"step": 3, "loss": 0.25}


def test_sync_has_the_rows_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    table = Table(path)
    table.sync()  # nothing yet, and no file
    assert not path.exists()
    table.append({"step": 1})
    table.sync()
    assert synced == [(path.stat().st_ino, table.size)]

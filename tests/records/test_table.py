"""Tables keep the columns of their first row, and the rows that a checkpoint knows of."""

import csv
import os
import random
import resource
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bilevel_cli.errors import Removed, Unwritten
from bilevel_cli.records.mending import mend
from bilevel_cli.records.table import MARKS, Mark, Table, last


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


@pytest.mark.parametrize("seed", range(20))
def test_two_writers_never_mix_their_rows(path: Path, seed: int) -> None:
    """The rows of one of them, after those of a checkpoint that the later one goes on from."""
    moments = random.Random(seed)
    first = Table(path)
    known: list[tuple[int, int, tuple[Mark, ...]]] = [(0, 0, ())]
    reasons: list[str] = []
    second: Table | None = None
    stopped: list[Table] = []
    for turn in range(40):
        if second is None and moments.random() < 0.1:
            second = Table(path, *moments.choice(known))
        for table, loss in ((first, 1.0), (second, 2.0)):
            if table is None or table in stopped or moments.random() < 0.5:
                continue
            try:
                table.append({"step": turn, "loss": loss})
            except Unwritten as error:
                reasons.append(str(error))
                stopped.append(table)
            else:
                known.append(table.position)
    assert all("for itself, got a file that is not as the run left it" in r for r in reasons)
    losses = [row["loss"] for row in rows(path)]
    assert losses == sorted(losses), "rows of the first, and then those of the second alone"
    assert second is None or second.size == path.stat().st_size or second in stopped


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.unlink(), Removed),
        (
            lambda path: (path.rename(path.with_suffix(".old")), path.write_text("step\n1\n")),
            Unwritten,
        ),
        (lambda path: os.truncate(path, 3), Unwritten),
        (lambda path: path.write_bytes(path.read_bytes() + b"9\n"), Unwritten),
    ],
    ids=["removed", "replaced", "cut", "grown"],
)
def test_a_file_that_is_not_as_it_was_left_is_not_written_to(
    path: Path, spoil: Callable[[Path], object], error: type[Unwritten]
) -> None:
    table = Table(path)
    table.append({"step": 1})
    spoil(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(error):
        table.append({"step": 2})
    with pytest.raises(error):
        table.sync()
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_row_behind_that_of_another_writer_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(path)
    table.append({"step": 1})
    check = table._check_mine

    def late() -> None:
        check()
        with path.open("a") as other:
            other.write("7\n")

    monkeypatch.setattr(table, "_check_mine", late)
    with pytest.raises(Unwritten, match="another run or program wrote to it"):
        table.append({"step": 2})
    assert path.read_text() == "step\n1\n7\n"


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 1000])
def test_damage_costs_its_own_rows_and_no_others(path: Path, count: int) -> None:
    table = written(path, count)
    size, digest, marks = table.position
    assert len(marks) <= MARKS + 1
    block = max([1, *(later[2] - mark[2] for mark, later in pairwise(marks))])
    assert block == 1 if count <= 256 else block < 2 + 4 * count / MARKS
    known = path.read_bytes()
    lines = known.splitlines(keepends=True)
    for at in (1, count // 2 + 1, count):
        spoiled = b"".join(
            [*lines[:at], lines[at].replace(b"0", b"8").swapcase(), *lines[at + 1 :]]
        )
        spoiled = spoiled if spoiled != known else known.replace(lines[at], b"x" * len(lines[at]))
        path.write_bytes(spoiled)
        mended = mend(path, size, digest, marks)
        left = path.read_bytes().splitlines(keepends=True)
        lost = [line for line in lines if line not in left]
        assert lines[at] in lost
        assert len(lost) == count + 1 - len(left) <= block
        assert left == [line for line in lines if line not in lost]
        assert mended.sentence.startswith(f"train.csv: {len(lost)} of {count} rows are damaged")
        assert mended.last == (lines[-1] in lost)
        assert path.with_name("train.damaged.csv").read_bytes() == spoiled
        again = Table(path, *mended.position)
        again.append({"step": count + 1, "loss": 0.5})
        assert again.position[2][-1] == (
            path.stat().st_size,
            zlib.crc32(path.read_bytes()),
            len(left),
        )


def test_marks_go_on_after_a_restart(path: Path) -> None:
    for count in (10, 300, 700):
        path.unlink(missing_ok=True)
        whole = written(path, 1000)
        marks = whole.position
        path.unlink()
        part = written(path, count)
        again = Table(path, *part.position)
        for step in range(count + 1, 1001):
            again.append({"step": step, "loss": 1 / step})
        assert again.position == marks

"""Tables keep the columns of their first row, and the rows that a checkpoint knows of."""

import csv
import os
from pathlib import Path

import pytest

from bilevel_cli.table import Table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_header_is_the_first_row(path: Path) -> None:
    table = Table(path, 0)
    assert not path.exists()
    table.append({"step": 1, "outer_loss": 0.25})
    table.append({"outer_loss": 0.1, "step": 2})  # in another order
    assert path.read_text() == "step,outer_loss\n1,0.25\n2,0.1\n"


def test_a_number_reads_back_as_it_was(path: Path) -> None:
    table = Table(path, 0)
    numbers = [0.1 + 0.2, 1e-300, -0.0, 2**53 - 1, float("inf")]
    for number in numbers:
        table.append({"x": number})
        assert table.last() == {"x": number}
    assert [float(row["x"]) for row in rows(path)] == numbers


def test_the_last_row_is_the_last_row(path: Path) -> None:
    table = Table(path, 0)
    for step in (1, 2, 3):
        table.append({"step": step, "loss": step / 2})
        assert table.last() == {"step": step, "loss": step / 2}


def test_a_row_can_be_read_before_the_run_ends(path: Path) -> None:
    table = Table(path, 0)
    for count in (1, 2, 3):
        table.append({"step": count})
        assert len(rows(path)) == count
        assert table.size == path.stat().st_size


@pytest.mark.parametrize(
    ("row", "got"),
    [({"step": 2}, "step"), ({"step": 2, "loss": 1.0, "extra": 3.0}, "step, loss, extra")],
)
def test_a_row_with_other_columns_is_refused(path: Path, row: dict[str, float], got: str) -> None:
    table = Table(path, 0)
    table.append({"step": 1, "loss": 0.5})
    before = path.read_bytes(), table.size
    message = f"train.csv needs a row with columns step, loss, got {got}. Report a metric at every"
    with pytest.raises(ValueError, match=message):
        table.append(row)
    assert (path.read_bytes(), table.size) == before
    table.append({"step": 2, "loss": 0.25})
    assert table.last() == {"step": 2, "loss": 0.25}


def test_a_restart_drops_the_rows_after_the_checkpoint_and_goes_on(path: Path) -> None:
    table = Table(path, 0)
    for step in (1, 2):
        table.append({"step": step, "loss": 0.5})
    size = table.size
    table.append({"step": 3, "loss": 0.4})
    again = Table(path, size)
    assert again.size == size
    assert again.last() == {"step": 2, "loss": 0.5}
    again.append({"loss": 0.3, "step": 3})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.5\n3,0.3\n"
    with pytest.raises(ValueError, match="needs a row with columns step, loss, got step, gap"):
        Table(path, size).append({"step": 3, "gap": 1.0})


@pytest.mark.parametrize("torn", ["3,0.", '3,"0', "3,0.4\n4", "\0\0\0\0"])
def test_a_restart_drops_a_row_that_a_crash_has_torn(path: Path, torn: str) -> None:
    table = Table(path, 0)
    table.append({"step": 1, "loss": 0.5})
    with path.open("a") as file:
        file.write(torn)
    again = Table(path, table.size)
    again.append({"step": 2, "loss": 0.4})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.4\n"


def test_a_restart_without_a_checkpoint_begins_the_file_again(path: Path) -> None:
    Table(path, 0).append({"step": 1, "loss": 0.5})
    table = Table(path, 0)
    table.append({"step": 1, "accuracy": 0.9})
    assert path.read_text() == "step,accuracy\n1,0.9\n"


@pytest.mark.parametrize("left", [0, 5, None])
def test_a_file_shorter_than_the_checkpoint_knows_is_refused(path: Path, left: int | None) -> None:
    table = Table(path, 0)
    table.append({"step": 1, "loss": 0.5})
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    message = f"train.csv needs the 16 bytes that .* got {left or 0}: it was cut or replaced"
    with pytest.raises(ValueError, match=message):
        Table(path, table.size)


def test_sync_has_the_rows_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    table = Table(path, 0)
    table.sync()  # nothing yet, and no file
    assert not path.exists()
    table.append({"step": 1})
    table.sync()
    assert synced == [(path.stat().st_ino, table.size)]

"""What is read of the folders of whole and damaged runs."""

import fcntl
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import EVAL_HEADER, bilevel_report, method_at, run_at

from bilevel_cli.errors import UsageError
from bilevel_cli.report.read import runs, tables


@pytest.mark.parametrize(
    ("content", "rows", "reason"),
    [
        (b"step,seconds,loss\n1,0.5,2\n2,1.0,3\n3,1.5,4", 2, "torn"),
        (b"step,seconds,loss\n1,0.5,2\n2,1.0,3\n3,1", 2, "torn"),
        (b"step,seconds,loss\n1,0.5,2\n2,1.0,3\n" + bytes(40), 2, "torn"),
        (b"step,seconds,loss\n1,0.5,2\n\0\0\0\0\n2,1.0,3\n", 2, "damaged"),
        (b"step,seconds,loss\n1,0.5,2\n2,1.0\n3,1.5,4,5\n4,2.0,3\n", 2, "damaged"),
        (b"step,seconds,loss\n1,0.5,2\nx,1.0,3\n3,\xff,4\n4,2,3\n", 2, "damaged"),
        (b'step,seconds,loss\n1,0.5,2\n2,"1.0",3\n\n4,2.0,3\n', 2, "damaged"),
        (b"step,seconds,loss\n2,0.5,2\n1,1.0,3\n2,1.5,4\n", 2, "out of order"),
        (b"time,loss\n1,2\n", 0, "another header"),
        (b"step,\xff\xfe\n1,2\n", 0, "another header"),
        (b"step,loss,loss\n1,2,3\n", 0, "another header"),
        (bytes(4096), 0, "another header"),
        (b"\x89PNG\r\n\x1a\n", 0, "another header"),
        (b"", 0, "empty"),
    ],
)
def test_of_a_damaged_table_the_whole_rows_are_read_and_one_line_says_so(
    content: bytes,
    rows: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "train.csv").write_bytes(content)
    (run,) = runs.read([folder])
    assert len(run.train) == rows
    assert bilevel_report(monkeypatch, folder) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / "train.csv") in line
    assert reason in line


def test_whole_tables_are_read_as_they_are_with_infinite_numbers_as_nan(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "eval.csv").write_text(
        "step,seconds,loss\r\n0,0.0,1e-300\r\n5,1.5,inf\r\n9,2,nan\r\n"
    )
    (run,) = runs.read([folder])
    assert run.warnings == []
    assert run.evals["step"].tolist() == [0, 5, 9]
    assert run.evals["loss"].iloc[0] == 1e-300
    assert run.evals["loss"].isna().tolist() == [False, True, True]


def test_a_header_alone_is_a_table_without_rows() -> None:
    table, wrong = tables.parse(b"step,seconds,loss\n")
    assert wrong is None
    assert (list(table), len(table)) == (["step", "seconds", "loss"], 0)


PIECES = st.sampled_from(
    [
        *(b"step", b"seconds", b"test_accuracy", b"step,seconds,a\n", b"1,2,3\n", b"2,3,4\n"),
        *(b",", b"\n", b"\r\n", b'"', b"'", b"#", b" ", b"\0", b"\xff", b"\xef\xbb\xbf"),
        *(b"nan", b"inf", b"-1", b"0", b"1", b"7", b"0.5", b"1e999", b"1_0"),
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,  # the same bytes on every machine
    suppress_health_check=list(HealthCheck),
)
@given(train=st.lists(PIECES, max_size=20), evals=st.binary(max_size=60) | st.just(None))
def test_no_bytes_of_a_table_end_in_a_traceback(
    train: list[bytes], evals: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if not folder.exists():
        run_at(folder)
    content = b"".join(train)
    (folder / "train.csv").write_bytes(content)
    (folder / "eval.csv").write_bytes(EVAL_HEADER.encode() + b"\n" + evals if evals else content)
    assert bilevel_report(monkeypatch, folder, "--at", "inner_grads") == 0
    (run,) = runs.read([folder])
    for table in (run.train, run.evals):
        if len(table):
            assert table["step"].is_monotonic_increasing
            assert not np.isinf(table.to_numpy()).any()


HEADERS = (b"step,a\n", b"step,b\n", b"step\n", b"step,a\r\n", b"time\n", b"")
ROWS = (
    *(
        b"1,2\n",
        b"2,inf\n",
        b"3,nan\n",
        b"1\n",
        b"2\n",
        b"3,",
        b"\n",
        b"4,1\r\n",
        b"5\r6\n",
        b"7\r",
    ),
    *(b'8,"1\n', b'9,1"\n', b",\n", b"1,2,3\n", b"9,0.1", b"-1,1\n", b"6,1e999\n", b"7,1-\n"),
)
BODIES = st.lists(st.sampled_from(ROWS), max_size=5).map(b"".join)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    several=st.lists(st.tuples(st.sampled_from(HEADERS), BODIES), max_size=8),
    whole=st.integers(2, 5),
)
def test_tables_that_are_read_together_are_what_each_is_alone(
    several: list[tuple[bytes, bytes]], whole: int
) -> None:
    contents = [header + body for header, body in several]
    contents += [
        b"step,a\n" + b"".join(b"%d,0.1\n" % n for n in range(whole)) for _ in range(whole)
    ]
    for content, (table, wrong) in zip(contents, tables.parse_all(contents), strict=True):
        alone, reason = tables.parse(content)
        pd.testing.assert_frame_equal(table, alone, check_exact=True)
        assert wrong == reason
        kept, noted = tables.unpacked(tables.packed((table, wrong)))
        pd.testing.assert_frame_equal(
            kept, table, check_exact=True, check_column_type=len(table) > 0
        )
        assert noted == wrong


def test_whole_small_tables_of_one_header_are_one_table_to_pandas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_csv, calls = pd.read_csv, list[int]()

    def counted(file: io.BytesIO, **how: Any) -> pd.DataFrame:
        calls.append(len(file.getvalue()))
        return read_csv(file, **how)

    monkeypatch.setattr(pd, "read_csv", counted)
    contents = [b"step,a\n1,%d\n2,0.5\n" % number for number in range(50)]
    found = tables.parse_all([*contents, b"step,a\n1,2\n\n"])
    assert [table["a"].tolist() for table, _ in found[:50]] == [[n, 0.5] for n in range(50)]
    assert len(calls) <= 3  # all of them; and the torn one, with its empty row and without


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"name": "web app"}', b"\xff", b"[" * 9999, b'{"status": 3}']
)
def test_a_run_with_a_damaged_manifest_is_kept_with_status_missing(
    content: bytes, tmp_path: Path
) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "manifest.json").write_bytes(content)
    (run,) = runs.read([folder])
    assert run.status == "missing"
    assert len(run.evals) == 3
    assert str(folder / "manifest.json") in " ".join(run.warnings)


def test_settings_of_a_run_without_a_manifest_are_those_that_hydra_noted(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run")
    (folder / "manifest.json").unlink()
    (folder / ".hydra" / "config.yaml").write_text("seed: 3\nreplicas: 1\na: {b: '${seed}'}\n")
    (run,) = runs.read([folder])
    assert (run.status, run.settings) == ("missing", {"seed": 3, "a.b": "${seed}"})


def test_a_run_is_going_as_long_as_its_lock_is_held_and_killed_after(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", status="running")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [run.status for run in runs.read([folder])] == ["running"]
        (folder / "manifest.json").write_text('{"status": "interrupted"}')  # until it continues
        assert [run.status for run in runs.read([folder])] == ["running"]
        (folder / "manifest.json").unlink()  # while it is built
        assert [run.status for run in runs.read([folder])] == ["running"]
    assert [run.status for run in runs.read([folder])] == ["missing"]
    other = run_at(tmp_path / "other", status="running")
    assert [run.status for run in runs.read([other])] == ["killed"]


def test_where_there_are_no_locks_the_manifest_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for status in ("running", "failed"):
        folder = run_at(tmp_path / status, status=status)
        (folder / "lock").touch()
        assert [run.status for run in runs.read([folder])] == [status]


def test_each_run_is_read_once_however_often_it_is_reached(tmp_path: Path) -> None:
    run_at(tmp_path / "sweep" / "a")
    run_at(tmp_path / "sweep" / "a" / "seed=1")
    (tmp_path / "sweep" / "round").symlink_to(tmp_path / "sweep")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked").symlink_to(tmp_path / "sweep")
    found = runs.read([tmp_path / "sweep", tmp_path / "elsewhere", tmp_path / "sweep" / "a"])
    assert len(found) == 2
    assert [run.name for run in runs.read([tmp_path / "sweep"])] == ["a", "a/seed=1"]
    assert [run.name for run in runs.read([tmp_path / "sweep/a/seed=1"])] == ["seed=1"]


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(UsageError, match=str(folder)):
            runs.read([folder])


def test_a_report_writes_nothing_into_the_folders_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method_at(tmp_path / "sweep", "cg", [0.7, 0.8, 0.9])
    run_at(tmp_path / "sweep" / "going", status="running")

    def state() -> dict[Path, tuple[int, bytes]]:
        files = sorted((tmp_path / "sweep").rglob("*"))
        return {f: (f.stat().st_mtime_ns, f.read_bytes() if f.is_file() else b"") for f in files}

    before = state()
    assert bilevel_report(monkeypatch, tmp_path / "sweep", "--csv", tmp_path / "t.csv") == 0
    assert state() == before

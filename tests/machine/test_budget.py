"""The budget of graphs: read, shared out among threads, and half of what is free by itself."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import bilevel_run
from configs import composed, small
from hydra.utils import instantiate

from bilevel_cli.machine import memory

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("budget_of_this_process")


@pytest.mark.parametrize(
    ("threads", "problems", "parts"), [(1, 5, 1), (2, 1, 1), (2, 3, 2), (4, 3, 3), (4, 100, 4)]
)
def test_the_budget_is_divided_among_the_inner_problems_that_are_solved_at_once(
    threads: int, problems: int, parts: int, two_threads: None
) -> None:
    torch.set_num_threads(threads)
    memory.set_budget("1.2 kB", CPU)
    torch.set_num_threads(1)  # as in each of the threads
    assert memory.budget(problems) == 1200 // parts
    assert memory.budget() == 1200


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("auto", None),
        (1000, 1000),
        (1, 1),
        ("1000", 1000),
        ("7 B", 7),
        ("3kB", 3000),
        ("500 MB", 500_000_000),
        ("2 GB", 2_000_000_000),
        ("0.5 GB", 500_000_000),
        ("1 TB", 10**12),
        (2e9, 2 * 10**9),
    ],
)
def test_a_budget_is_read_in_bytes_and_decimal_units(setting: Any, expected: int | None) -> None:
    assert memory.budget_bytes(setting) == expected
    if expected is not None:
        memory.set_budget(setting, CPU)
        assert memory.budget() == expected


BAD = [
    "",
    "lots",
    "-1",
    "0",
    0,
    -1,
    "1 XB",
    "GB",
    "1 GB 2",
    "0.1 B",
    math.nan,
    math.inf,
    None,
    True,
]


@pytest.mark.parametrize("setting", BAD, ids=repr)
def test_what_is_no_budget_is_refused_by_its_name(setting: Any) -> None:
    with pytest.raises(ValueError, match=r"Set device\.memory_budget\.$") as caught:
        memory.budget_bytes(setting)
    assert f"got {setting!r}" in str(caught.value)
    before = memory._budget
    with pytest.raises(ValueError, match="memory_budget"):
        memory.set_budget(setting, CPU)
    assert memory._budget == before
    device = instantiate(composed("device=cpu").device)
    with pytest.raises(ValueError, match="memory_budget"):
        dataclasses.replace(device, memory_budget=setting)


@pytest.mark.parametrize("setting", ["lots", "-1", "0", "1 XB", "nan", "null", "''"])
def test_a_run_with_what_is_no_budget_ends_with_one_line_and_exit_code_2(
    setting: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert bilevel_run(monkeypatch, "task=quadratic", f"device.memory_budget={setting}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory_budget" in line


def test_a_run_writes_the_same_numbers_in_every_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    common = ["task=reweight", *small("reweight"), "device=cpu", "outer_steps=3", "log_every=1"]
    common += [
        "inner_steps=6",
        "device.dtype=float64",
        "solver=momentum",
        "hydra.output_subdir=null",
    ]
    common += ["device.threads=1"]  # the bits of a sum depend on how many cores it is cut into
    tables: list[pd.DataFrame] = []
    for budget in ("auto", "100 kB", "1"):
        settings = [f"device.memory_budget={budget}", f"hydra.run.dir=run{len(tables)}"]
        assert bilevel_run(monkeypatch, *common, *settings) == 0
        tables.append(pd.read_csv(tmp_path / f"run{len(tables)}" / "train.csv"))
    for other in tables[1:]:
        assert list(other) == list(tables[0])
        for name in ("step", "outer_loss", "grad_norm", "hvps"):
            assert other[name].tolist() == tables[0][name].tolist()
    first, *_, last = (found["inner_grads"].iloc[-1] for found in tables)
    assert first == 3 * 6 < last


def test_what_is_free_is_some_of_the_memory_and_half_of_it_is_the_budget_unless_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.free(CPU) <= everything
    monkeypatch.setattr(memory, "_budget", None)
    monkeypatch.setattr(memory, "free", lambda device: 1001)
    assert memory.budget() == 500
    memory.set_budget("auto", CPU)
    assert memory.budget() == 500


GROUPS = {
    "version 2": {
        "memory.max": "900000",
        "memory.current": "500000",
        "memory.stat": "anon 1\ninactive_file 100000",
    },
    "version 1": {
        "memory/memory.limit_in_bytes": "900000",
        "memory/memory.usage_in_bytes": "500000",
        "memory/memory.stat": "cache 1\ntotal_inactive_file 100000",
    },
    "no limit": {
        "memory.max": "max",
        "memory.current": "500000",
        "memory.stat": "inactive_file 100000",
    },
    "a limit above the memory": {
        "memory/memory.limit_in_bytes": str(2**62),
        "memory/memory.usage_in_bytes": "500000",
        "memory/memory.stat": "total_inactive_file 100000",
    },
    "overdrawn": {
        "memory.max": "100",
        "memory.current": "500000",
        "memory.stat": "inactive_file 100000",
    },
    "none": {},
}


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("version 2", 500_000),  # 900000 - 500000, and 100000 of files that can be dropped
        ("version 1", 500_000),
        ("no limit", 3000 * 1024),
        ("a limit above the memory", 3000 * 1024),
        ("overdrawn", 0),
        ("none", 3000 * 1024),
    ],
)
def test_a_container_is_free_to_take_what_its_limit_leaves(
    group: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in GROUPS[group].items()}
    files["proc/meminfo"] = "MemTotal:  9000 kB\nMemAvailable:  3000 kB\nHugePages_Total: 0\n"
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert memory.free(CPU) == expected


def test_where_the_system_does_not_say_what_is_free_it_is_half_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.lstrip("/"))
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.free(CPU) == everything // 2

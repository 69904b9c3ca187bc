"""What a run takes besides its outer steps: until the first of them, and for its rows."""

import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets
import torch
from configs import composed

from bilevel_cli import experiment, runner
from bilevel_cli.data import shipped
from bilevel_cli.metrics.precision_gap import PrecisionGap
from bilevel_cli.runner import Runner
from bilevel_cli.table import Table

HEAVY = ["sklearn", "scipy", "pandas", "matplotlib", "PIL", "pooch", "torchvision"]
PROGRAM = """
import json, sys, time
sys.argv = ["bilevel-run", *sys.argv[1:]]
from bilevel_cli import cli, experiment
seen = {}
def build(*args):
    runner = real(*args)
    append = runner.train.append
    def first(row):
        seen.setdefault("seconds", time.process_time())
        seen.setdefault("modules", [name for name in HEAVY if name in sys.modules])
        append(row)
    runner.train.append = first
    return runner
real, experiment.build = experiment.build, build
cli.main()
print(json.dumps(seen))
"""


def started(directory: Path, *overrides: str) -> dict[str, Any]:
    """CPU seconds of a process until its first outer step is taken, and what it has imported."""
    program = f"HEAVY = {HEAVY}\n{PROGRAM}"
    command = [sys.executable, "-c", program, *overrides, "outer_steps=1", "device=cpu"]
    found = subprocess.run(
        [*command, f"hydra.run.dir={directory}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    seen: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return seen


@pytest.mark.parametrize("overrides", [["task=quadratic"], ["task=reweight", "data=digits"]])
def test_the_first_step_waits_for_no_library_that_it_does_not_use(
    overrides: list[str], tmp_path: Path
) -> None:
    seen = started(tmp_path, *overrides)
    assert seen["modules"] == []
    # 3.0 on the machine of docs/benchmarks.md, of which torch takes 2.3.
    assert seen["seconds"] < 10


def test_shipped_tables_are_those_of_scikit_learn() -> None:
    def same(ours: torch.Tensor, theirs: Any) -> None:
        assert torch.equal(ours, torch.from_numpy(theirs).to(ours))

    digits, targets = sklearn.datasets.load_digits(return_X_y=True)
    table = shipped.table("digits.csv.gz", delimiter=",")
    same(table[:, :-1], digits)
    same(table[:, -1], targets)
    tumours, malignant = sklearn.datasets.load_breast_cancer(return_X_y=True)
    table = shipped.table("breast_cancer.csv", delimiter=",", header=1)
    same(table[:, :-1], tumours)
    same(table[:, -1], malignant)
    patients, progression = sklearn.datasets.load_diabetes(return_X_y=True, scaled=False)
    same(shipped.table("diabetes_data_raw.csv.gz"), patients)
    same(shipped.table("diabetes_target.csv.gz")[:, 0], progression)


def build(directory: Path, *overrides: str) -> Runner:
    config = composed("device=cpu", "task=quadratic", "inner_steps=10", *overrides)
    return experiment.build(config, experiment.resolved(config), directory, {})


class Clock:
    """The CPU seconds of every call of a function."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.seconds = fn, list[float]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = time.process_time()
        found = self.fn(*args, **kwargs)
        self.seconds.append(time.process_time() - before)
        return found


def test_a_row_at_every_step_takes_a_small_part_of_a_small_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tmp_path, "outer_steps=100", "log_every=1", "eval_every=100", "save_every=100")
    clocks = {name: Clock(getattr(runner, name)) for name in ("_read", "peak_memory_mb")}
    for name, clock in clocks.items():
        monkeypatch.setattr(runner, name, clock)
    append, ends = Clock(run.train.append), list[float]()

    def stamped(row: Any) -> None:
        append(row)
        ends.append(time.process_time())

    monkeypatch.setattr(run.train, "append", stamped)
    run.run()
    step = statistics.median(after - before for before, after in pairwise(ends))
    logging = sum(statistics.median(clock.seconds) for clock in (append, *clocks.values()))
    # 1.7 to 2 % of a step of 2.8 ms, quiet or not; before, 10 %. The bound leaves room for noise.
    assert logging < 0.05 * step


def test_the_ten_thousandth_row_takes_the_time_and_memory_of_the_hundredth(tmp_path: Path) -> None:
    table, row = (
        Table(tmp_path / "train.csv"),
        {"step": 1, "outer_loss": 0.123, "grad_norm": 4.5},
    )
    append = Clock(table.append)
    for _ in range(200):
        append(row)
    tracemalloc.start()
    for _ in range(9_800):
        append(row)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for _ in range(200):
        append(row)
    early, late = append.seconds[:200], append.seconds[-200:]
    assert statistics.median(late) < 3 * statistics.median(early)
    assert held < 1e6  # of which the clock's own list takes most
    assert len(table.path.read_text().splitlines()) == 1 + 10_200
    assert table.size == table.path.stat().st_size


@pytest.mark.parametrize("option", ["highest", "high"])
def test_the_gap_of_float32_products_to_themselves_is_zero(option: str, tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        chosen = ["metrics=precision_gap", "method=iaptt", f"device.matmul_precision={option}"]
        run = build(tmp_path, *chosen, "outer_steps=2", "log_every=1")
        assert isinstance(run.metrics["precision_gap"], PrecisionGap)
        assert run.metrics["precision_gap"].method == run.method
        run.run()
        assert torch.get_float32_matmul_precision() == option
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    # On a CPU "high" is float32 too.
    assert run.train.last()["precision_relative_error"] == 0


def test_the_gap_is_taken_to_the_estimate_with_the_precision_at_its_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["metrics=precision_gap", "outer_steps=1", "log_every=1", "device.dtype=float64"]
    run = build(tmp_path, *chosen, "device.matmul_precision=high")
    problem = run.loop.problem
    exact = problem.outer_loss

    def imprecise(*args: Any) -> torch.Tensor:
        lower = torch.get_float32_matmul_precision() != "highest"
        return (1.01 if lower else 1.0) * exact(*args)

    monkeypatch.setattr(problem, "outer_loss", imprecise)
    run.run()
    torch.set_float32_matmul_precision("highest")
    # A loss times 1.01 has a hypergradient times 1.01.
    assert run.train.last()["precision_relative_error"] == pytest.approx(0.01, rel=1e-9)

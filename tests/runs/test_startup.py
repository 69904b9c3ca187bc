"""What a run takes besides its outer steps: until the first of them, and for its rows."""

import statistics
import sys
import tracemalloc
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets
import torch
from starting import build, started

from bilevel_cli.data.reading import shipped
from bilevel_cli.metrics.precision_gap import PrecisionGap
from bilevel_cli.records.table import Table
from bilevel_cli.runs import judgement, runner


@pytest.mark.parametrize("overrides", [["task=quadratic"], ["task=reweight", "data=digits"]])
def test_the_first_step_waits_for_no_library_that_it_does_not_use(
    overrides: list[str], tmp_path: Path
) -> None:
    assert started(tmp_path, *overrides)["modules"] == []


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


class Work:
    """The functions, of Python and of C, that every call of a function calls.

    A clock measures the machine as well; this is the same on all of them.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.calls = fn, list[int]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls, others = 0, sys.getprofile()

        def count(frame: Any, event: str, called: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            return self.fn(*args, **kwargs)
        finally:
            sys.setprofile(others)
            self.calls.append(calls)


def test_a_row_at_every_step_is_a_small_part_of_the_work_of_a_small_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tmp_path, "outer_steps=100", "log_every=1", "eval_every=100", "save_every=100")
    parts = []
    for module, name in ((judgement, "read"), (runner, "peak_memory_mb")):
        parts.append(Work(getattr(module, name)))
        monkeypatch.setattr(module, name, parts[-1])
    append, whole = Work(run.rows.train.append), Work(run.run)
    monkeypatch.setattr(run.rows.train, "append", append)
    whole()
    assert len(append.calls) == 100
    logging = sum(statistics.median(part.calls) for part in (append, *parts))
    # 40 calls of 2000, as it is 2 % of the time: 2.8 ms on the machine of docs/benchmarks.md.
    assert logging < 0.05 * whole.calls[0] / 100


def test_an_outer_step_is_little_work_besides_its_estimate(tmp_path: Path) -> None:
    def work(steps: int) -> int:
        every = [f"{name}={steps}" for name in ("log_every", "eval_every", "save_every")]
        run = build(tmp_path / str(steps), f"outer_steps={steps}", *every, "optimizer=sgd")
        estimate = run.estimate(*run.state.draw())
        run.estimate = lambda *inputs: estimate  # that of the first step at all steps
        whole = Work(run.run)
        whole()
        return whole.calls[0]

    # 142 calls of functions, in 0.1 ms. There were 197, in 0.22 ms, with what torch wraps around
    # the step of an optimizer and of a scheduler, and with numbers that were noted step by step.
    assert (work(256) - work(128)) / 128 < 170


def test_the_ten_thousandth_row_is_the_work_and_memory_of_the_hundredth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Counted(FileIO):
        def write(self, text: Any) -> int:
            written.append(len(text))
            return super().write(text)

    monkeypatch.setattr("bilevel_cli.records.table.FileIO", Counted)
    table = Table(tmp_path / "train.csv")
    row = {"step": 1, "outer_loss": 0.123, "grad_norm": 4.5}
    append = Work(table.append)
    for _ in range(100):
        append(row)
    tracemalloc.start()
    for _ in range(9_900):
        table.append(row)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    append(row)
    assert append.calls[-1] == append.calls[-2]
    assert len(set(written[1:])) == 1, "the bytes of its own line"
    assert held < 1e6  # of which the list of this test takes most
    assert len(table.path.read_text().splitlines()) == 1 + 10_001
    assert sum(written) == table.size == table.path.stat().st_size


@pytest.mark.parametrize("option", ["highest", "high"])
def test_the_gap_of_float32_products_to_themselves_is_zero(option: str, tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        chosen = ["metrics=precision_gap", "method=iaptt", f"device.matmul_precision={option}"]
        run = build(tmp_path, *chosen, "outer_steps=2", "log_every=1")
        assert isinstance(run.experiment.metrics["precision_gap"], PrecisionGap)
        assert run.experiment.metrics["precision_gap"].method == run.experiment.method
        run.run()
        assert torch.get_float32_matmul_precision() == option
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    # On a CPU "high" is float32 too.
    assert run.rows.train.last()["precision_relative_error"] == 0


def test_the_gap_is_taken_to_the_estimate_with_the_precision_at_its_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["metrics=precision_gap", "outer_steps=1", "log_every=1", "device.dtype=float64"]
    run = build(tmp_path, *chosen, "device.matmul_precision=high")
    problem = run.experiment.loop.problem
    exact = problem.outer_loss

    def imprecise(*args: Any) -> torch.Tensor:
        lower = torch.get_float32_matmul_precision() != "highest"
        return (1.01 if lower else 1.0) * exact(*args)

    monkeypatch.setattr(problem, "outer_loss", imprecise)
    run.run()
    torch.set_float32_matmul_precision("highest")
    # A loss times 1.01 has a hypergradient times 1.01.
    assert run.rows.train.last()["precision_relative_error"] == pytest.approx(0.01, rel=1e-9)

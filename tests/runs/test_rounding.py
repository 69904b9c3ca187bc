"""What a run in mixed precision says of its own hypergradient."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import bilevel_cli
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.errors import UsageError
from bilevel_cli.metrics.precision_gap import COLUMN, PrecisionGap
from bilevel_cli.nn import autocasting
from bilevel_cli.runs.rounding import Rounding
from bilevel_cli.vocabulary import MANIFEST

MIXED = "device.precision=bf16-mixed"
SMALL = ["device=cpu", "task=reweight", "data=breast_cancer", "data.train=40", "model=mlp"]
SMALL += ["model.width=8", "inner_steps=3", "solver.lr=0.1", "eval_every=100", "save_every=100"]


def ran(folder: Path, *overrides: str) -> bilevel_cli.Run:
    return bilevel_cli.run(*SMALL, *overrides, folder=folder, progress=False)


def doubts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())["doubts"]
    return found


def test_a_run_whose_hypergradient_is_far_off_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = ["method=es", "method.pairs=2", "outer_steps=4", "log_every=1"]
    said = ran(tmp_path / "mixed", *chosen, MIXED)
    found = doubts(tmp_path / "mixed")["precision"]
    assert found["sentence"].startswith("device.precision=bf16-mixed moves the hypergradient by ")
    assert "Use device.precision=null" in found["sentence"]
    assert sum("moves the hypergradient" in one.message for one in caplog.records) == 1
    assert COLUMN not in said.train
    assert "precision gap" not in said.train


def test_a_run_measures_its_precision_at_the_rows_1_2_and_4_unless_a_metric_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    measure = PrecisionGap.measure

    def counted(self: PrecisionGap, view: Any) -> dict[str, Tensor]:
        steps.append(view.step)
        return measure(self, view)

    monkeypatch.setattr(PrecisionGap, "measure", counted)
    chosen = ["method=bsg1", "outer_steps=9", "inner_steps=1", "log_every=2"]
    ran(tmp_path / "mixed", *chosen, MIXED)
    assert steps == [2, 4, 8], "the rows 1, 2 and 4; those of the steps 6 and 9 are 3 and 5"
    steps.clear()
    ran(tmp_path / "measured", *chosen, MIXED, "metrics=precision_gap")
    assert steps == [2, 4, 6, 8, 9]
    steps.clear()
    ran(tmp_path / "exact", *chosen)
    assert steps == []


def test_a_run_without_memory_for_float32_goes_on_and_says_that_the_cost_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def full(self: PrecisionGap, view: Any) -> dict[str, Tensor]:
        calls.append(view.step)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PrecisionGap, "measure", full)
    ran(tmp_path / "mixed", "method=bsg1", "outer_steps=4", "log_every=1", MIXED)
    assert calls == [1]
    (line,) = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert line.startswith("What device.precision=bf16-mixed costs the hypergradient stays unknown")


def test_a_process_without_memory_for_float32_exchanges_with_the_others_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: PrecisionGap, view: Any) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PrecisionGap, "measure", full)
    exchanged: list[str] = []
    ranks: Any = SimpleNamespace(whole=exchanged.append)
    parts: Any = SimpleNamespace(loop=None, method=None, metrics={}, ranks=ranks)
    with autocasting.restored():
        autocasting.use(autocasting.MIXED)
        rounding = Rounding(parts, parts, log_every=1)
    found = Estimate({}, torch.zeros(()), "after", {})
    for step in range(1, 5):
        assert rounding.measure(step, ({}, StepData({}, {}, {}), "before"), found) == {}
    assert exchanged == 3 * ["before", "after"], "at the rows 1, 2 and 4"


def test_a_continued_run_has_the_numbers_and_doubts_of_one_that_was_not(tmp_path: Path) -> None:
    chosen = ["method=darts", MIXED, "log_every=1"]
    ran(tmp_path / "whole", *chosen, "outer_steps=5")
    for steps in (3, 5):
        ran(tmp_path / "parts", *chosen, f"outer_steps={steps}")
    whole, parts = (
        pd.read_csv(tmp_path / name / "train.csv").drop(columns=["seconds", "peak_memory_mb"])
        for name in ("whole", "parts")
    )
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)
    assert doubts(tmp_path / "whole") == doubts(tmp_path / "parts")
    with pytest.raises(UsageError, match=r"device\.precision=bf16-mixed there and None here"):
        ran(tmp_path / "parts", "method=darts", "log_every=1", "outer_steps=6")

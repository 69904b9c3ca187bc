"""Stand-ins for modules that torch imports and a run does not use."""

import importlib
import operator
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel_cli.machine import compiler
from bilevel_cli.machine.compiler import Deferred


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deferred:
    """Stands for a package that is not imported yet."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy/__init__.py").write_text("light = lambda: 'real'\nother = 3\n")
    (tmp_path / "heavy/below.py").write_text("value = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = Deferred("heavy", True, {"light": lambda: "known"})
    monkeypatch.setitem(sys.modules, "heavy", found)
    monkeypatch.delitem(sys.modules, "heavy.below", raising=False)
    return found


def test_a_stand_in_answers_what_it_knows_without_the_module(heavy: Deferred) -> None:
    assert heavy.light() == "known"
    assert not hasattr(heavy, "__file__")  # as asked by those who look at all modules
    assert sys.modules["heavy"] is heavy


def test_the_module_is_there_as_soon_as_something_else_is_asked(heavy: Deferred) -> None:
    assert heavy.other == 3
    assert sys.modules["heavy"] is not heavy
    assert importlib.import_module("heavy").light() == "real"


def test_a_module_below_is_imported_from_the_real_one(heavy: Deferred) -> None:
    assert importlib.import_module("heavy.below").value == 5
    assert importlib.import_module("heavy").below.value == 5
    assert sys.modules["heavy"] is not heavy


def test_stand_ins_answer_as_torch_does_where_nothing_is_compiled() -> None:
    sizes = importlib.import_module("torch.fx.experimental.symbolic_shapes")
    known = compiler.ASKED[sizes.__name__]
    for one, other in [((), ()), ((2, 3), (2, 3)), ((2, 3), (3, 2)), ((2,), (2, 1))]:
        theirs = sizes.expect_true(sizes.sym_eq(torch.Size(one), torch.Size(other)))
        assert known["expect_true"](known["sym_eq"](torch.Size(one), torch.Size(other))) is theirs
    assert known["sym_eq"] is operator.eq
    real = importlib.import_module("torch._dynamo")
    plain = compiler.ASKED[real.__name__]
    assert plain["graph_break"]() is real.graph_break() is None
    assert plain["disable"](len, True, wrapping=False)("four") == real.disable(len)("four") == 4


@pytest.mark.parametrize(("patience", "messages"), [(0.0, 1), (1000.0, 0)])
def test_compiling_is_spoken_of_where_it_takes_a_while(
    patience: float,
    messages: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    timers: list[threading.Timer] = []

    def timer(*given: Any) -> threading.Timer:
        timers.append(threading.Timer(*given))
        return timers[-1]

    monkeypatch.setattr(compiler, "PATIENCE", patience)
    monkeypatch.setattr(compiler, "Timer", timer)
    with caplog.at_level("INFO"), compiler.told_where_slow():
        if messages:
            timers[0].join()
    timers[0].join()  # at once: what was not said is cancelled
    found = [record for record in caplog.records if "device.capture=null" in record.message]
    assert len(found) == messages

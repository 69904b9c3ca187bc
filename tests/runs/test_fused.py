"""Outer steps taken as one function are the steps of a run that takes them one by one."""

import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import configured, options
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.errors import UsageError
from bilevel_cli.machine import looping
from bilevel_cli.machine.looping import NotCompiled
from bilevel_cli.machine.signals import Interrupted
from bilevel_cli.runs import replicas
from bilevel_cli.runs.fused import Fused, Taken
from bilevel_cli.runs.replicas import Replicas
from bilevel_cli.runs.runner import Runner

KNOWN = torch.__version__.split(".")[:2] == ["2", "13"]  # as tests/machine/test_looping.py has it
pytestmark = [
    pytest.mark.usefixtures("digits_read_once"),
    pytest.mark.skipif(not KNOWN, reason="the private functions of another torch may be others"),
]

FUSED, UNFUSED = "device.capture=compile", "device.capture=null"
SABA = ("task=quadratic", "method=saba", "task.inner_dim=4", "task.outer_dim=3")
CADENCE = ("log_every=10", "eval_every=20", "save_every=20", "outer_steps=40")
TIMINGS = ["seconds", "peak_memory_mb"]


def made(folder: Path, *overrides: str) -> Runner:
    folder.mkdir(exist_ok=True)
    return runner_in(configured("device=cpu", "device.dtype=float64", *overrides), folder)


def fuses(runner: Runner) -> bool:
    return runner.fusion.on and runner.fusion._fused is not None


def moved(runner: Runner) -> dict[str, Any]:
    """All that a checkpoint holds of what moves."""
    return runner.state.saved()


def check_same(ours: Any, theirs: Any, where: str = "", rtol: float = 1e-12) -> None:
    """Two checkpoints: the same names, types and shapes, numbers to rounding, streams to the bit.

    Args:
        ours: Of a fused run.
        theirs: Of one that is not.
        where: The names that lead there.
        rtol: Relative to the largest entry of a tensor.
    """
    assert type(ours) is type(theirs), where
    if isinstance(ours, Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        scale = float(theirs.abs().max()) if theirs.numel() and theirs.is_floating_point() else 0.0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * scale, msg=lambda m: where + m)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for name in ours:
            check_same(ours[name], theirs[name], f"{where}.{name}", rtol)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            check_same(one, other, f"{where}.{number}", rtol)
    else:
        assert ours == theirs, where


def rows(folder: Path, name: str = "train.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name).drop(columns=TIMINGS, errors="ignore")


def both(folder: Path, *overrides: str) -> tuple[Runner, Runner]:
    """A run that fuses, or has said why not, and the same run that does not; both at their ends."""
    pair = made(folder / "fused", *overrides, FUSED), made(folder / "unfused", *overrides, UNFUSED)
    for runner in pair:
        runner.run()
    for name in ("train.csv", "eval.csv"):
        ours, theirs = (rows(folder / kind, name) for kind in ("fused", "unfused"))
        # Distances to an optimum are differences of numbers of order one.
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9, atol=1e-11)
    return pair


@pytest.mark.parametrize(
    "method",
    ["saba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mrbo", "fsla"))],
)
def test_methods_with_a_memory_of_the_past_move_as_unfused(method: str, tmp_path: Path) -> None:
    # Tables of gradients, and previous iterates, of which a loop in place might see the next ones.
    overrides = (f"method={method}", *CADENCE, "inner_steps=1")
    ours, theirs = both(tmp_path, *SABA, *overrides)
    assert fuses(ours)
    check_same(moved(ours), moved(theirs))


def test_a_run_goes_on_bit_for_bit_wherever_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a signal in the midst of steps without a row, and by an end that has a row of its own.
    whole = made(tmp_path / "whole", *SABA, *CADENCE, FUSED)
    whole.run()
    advance = Fused.advance

    def stopped(self: Fused, steps: int) -> list[Taken]:
        if self.members[0].run.step >= 22:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self, min(steps, 2))

    parts = tmp_path / "parts"
    made(parts, *SABA, *CADENCE, "outer_steps=15", FUSED).run()
    interrupted = made(parts, *SABA, *CADENCE, FUSED)
    monkeypatch.setattr(Fused, "advance", stopped)
    with pytest.raises(Interrupted):
        interrupted.run()
    monkeypatch.setattr(Fused, "advance", advance)
    continued = made(parts, *SABA, *CADENCE, FUSED)
    assert 22 < continued.step < 30
    continued.run()
    check_same(moved(continued), moved(whole), rtol=0.0)


def test_a_run_goes_on_fused_where_it_was_not_and_the_reverse(tmp_path: Path) -> None:
    overrides = ("task=quadratic", "method=soba", *CADENCE)
    ways = ((FUSED, 12), (UNFUSED, 26), (FUSED, 40))
    for way, steps in ways:
        last = made(tmp_path / "mixed", *overrides, way, f"outer_steps={steps}")
        last.run()
    alone = made(tmp_path / "alone", *overrides, UNFUSED)
    alone.run()
    check_same(moved(last), moved(alone))


@pytest.mark.slow
def test_an_average_moves_as_unfused_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    overrides = (*SABA, *CADENCE, "average=0.9", "test_steps=[0,2]")
    ours, theirs = both(tmp_path, *overrides)
    assert fuses(ours)
    check_same(moved(ours), moved(theirs))
    for steps in (15, 27, 40):
        last = made(tmp_path / "parts", *overrides, f"outer_steps={steps}", FUSED)
        last.run()
    check_same(moved(last), moved(ours), rtol=0.0)


@pytest.mark.slow
def test_steps_that_are_given_all_examples_are_taken_by_themselves(tmp_path: Path) -> None:
    batches = ("task=logistic", "data=breast_cancer", "task.batch_size=40")
    method = ("method=srba", "method.period=7", "task.outer_batch_size=40")
    ours, theirs = both(tmp_path, *batches, *method, *CADENCE)
    assert fuses(ours)
    check_same(moved(ours), moved(theirs))


@pytest.mark.slow
def test_replicas_on_a_cpu_move_in_loops_of_their_own_as_each_alone(tmp_path: Path) -> None:
    overrides = ("task=quadratic", "method=soba", *CADENCE, FUSED)

    def runs(kind: str) -> list[Runner]:
        return [made(tmp_path / f"{kind}{seed}", *overrides, f"seed={seed}") for seed in range(2)]

    together = Replicas(runs("together"))
    together.run()
    assert together._together is None
    for one, alone in zip(together.runners, runs("alone"), strict=True):
        alone.run()
        assert fuses(one)
        check_same(moved(one), moved(alone))


@pytest.mark.slow
def test_replicas_in_one_loop_move_as_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_loops", lambda runner: False)  # as on a GPU
    # Each has examples, labels and a start of its own.
    batches = ("task=reweight", "data=digits", "data.train=60", "data.validation=60", "method=saba")
    sizes = ("task.batch_size=20", "task.outer_batch_size=20", *CADENCE)

    def runs(kind: str) -> list[Runner]:
        capture = FUSED if kind == "fused" else UNFUSED
        return [
            made(tmp_path / f"{kind}{seed}", *batches, *sizes, f"seed={seed}", capture)
            for seed in range(3)
        ]

    together = Replicas(runs("fused"))
    together.run()
    assert together._together is not None
    for one, alone in zip(together.runners, runs("alone"), strict=True):
        alone.run()
        check_same(moved(one), moved(alone))


def test_fewer_replicas_that_cannot_be_compiled_are_not_taken_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Together:
        """Stands for a loop of whichever replicas it was made of."""

        def __init__(self, members: list[Any], outer_step: Any) -> None:
            if len(members) < 3:
                raise NotCompiled("mine")
            self.members = members

    monkeypatch.setattr(replicas, "Fused", Together)
    every = Replicas([made(tmp_path / str(k), *SABA, f"seed={k}", FUSED) for k in range(3)])
    monkeypatch.setattr(every, "_maps", lambda runners: True)
    for runner in every.runners:
        runner.state.step = 1  # fused from the second step on
        runner.fusion.steps()
    assert isinstance(every._fused(every.runners), Together)
    assert every._fused(every.runners[:2]) is None  # one of them has diverged


@pytest.mark.slow
def test_a_budget_ends_a_fused_run_where_it_ends_another(tmp_path: Path) -> None:
    overrides = ("task=quadratic", "method=soba", "inner_steps=3", "budget=70", *CADENCE)
    ours, theirs = both(tmp_path, *overrides)
    assert (
        (ours.step, ours.state.inner_grads) == (theirs.step, theirs.state.inner_grads) == (24, 72)
    )


@pytest.mark.parametrize("fault", [NotCompiled("mine"), ImportError("torch lacks it")])
def test_what_cannot_be_compiled_goes_on_one_by_one_and_says_why(
    fault: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any) -> None:
        raise fault

    monkeypatch.setattr(looping, "_compiled", fail)
    monkeypatch.setattr(autodiff, "compiled", lambda step: step)  # the slow way, by torch.compile
    with caplog.at_level("INFO"):
        ours, theirs = both(tmp_path, "task=quadratic", "method=soba", *CADENCE)
    assert not ours.fusion.on
    assert [r for r in caplog.messages if "taken one by one" in r and str(fault) in r]
    check_same(moved(ours), moved(theirs), rtol=0.0)


def test_a_loop_with_other_numbers_than_the_step_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    estimates = Fused.estimates

    def off(self: Fused) -> list[Any]:
        return [
            found._replace(grad={name: 1.1 * value for name, value in found.grad.items()})
            for found in estimates(self)
        ]

    monkeypatch.setattr(Fused, "estimates", off)
    monkeypatch.setattr(autodiff, "compiled", lambda step: step)
    with caplog.at_level("INFO"):
        ours, theirs = both(tmp_path, "task=quadratic", "method=soba", *CADENCE)
    assert [r for r in caplog.messages if "its hypergradient is 0.1 off" in r]
    check_same(moved(ours), moved(theirs), rtol=0.0)


def test_a_row_at_every_step_leaves_nothing_to_fuse(tmp_path: Path) -> None:
    run = made(tmp_path, "task=quadratic", "method=soba", "log_every=1", "outer_steps=3", FUSED)
    assert run.fusion.steps() == 0
    assert not run.fusion.on


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(options("method")))
def test_a_thousand_steps_of_every_method_are_those_one_by_one(method: str, tmp_path: Path) -> None:
    sizes = ("task.inner_dim=4", "task.outer_dim=3", "inner_steps=2", "outer_steps=1000")
    rare = ("log_every=500", "eval_every=1000", "save_every=1000")
    overrides = ("task=quadratic", f"method={method}", *sizes, *rare)
    if method == "direct":  # F of this task sees lambda through z alone
        with pytest.raises(UsageError, match="method="):
            made(tmp_path, *overrides)
        return
    ours, theirs = both(tmp_path, *overrides)
    assert fuses(ours)
    check_same(moved(ours), moved(theirs))

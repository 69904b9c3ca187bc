"""Designed sequences: the backward regression in closed form, and what exact methods say of it."""

import pytest
import torch
from exact_methods import EXACT, hypergradients
from sequence_design import sequence_design
from sequence_design.sequence_design import SequenceDesign, features

from bilevel_cli import autodiff, check_task
from bilevel_cli.solvers.gd import GradientDescent


def task(share: float = 0.5) -> SequenceDesign:
    return SequenceDesign(share, torch.device("cpu"), torch.Generator().manual_seed(0))


def test_the_contract_of_tasks_is_kept() -> None:
    check_task(task())


def test_the_worst_sequence_is_worth_0_the_best_1_and_the_known_ones_less_than_most() -> None:
    posed = task()
    assert [float(posed.true.min()), float(posed.true.max())] == [0, 1]
    # The worse half of 2000 random sequences: its best one is near the median of all.
    assert abs((posed.true < posed.best_known).double().mean() - 0.5) < 0.05


def test_all_exact_methods_find_the_derivative_of_the_closed_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequence_design, "DESIGNS", 2)
    posed = task()
    outer = posed.init_outer(torch.Generator().manual_seed(1))

    def closed(x: torch.Tensor) -> torch.Tensor:
        phi = features(x.softmax(-1)) - posed.known["mean"]
        # Ridge regression on one example phi with the label 10 and a penalty of 4.
        w = 10.0 * phi / (phi.square().sum(1, keepdim=True) + 4.0)
        return posed.outer_loss({"w": w}, {"x": x}, posed.known)

    expected = autodiff.grad(closed)(outer["x"])
    # Curvature is 4 across phi and at most 4 + 12 along it: each step leaves 0.6 of an error.
    found = hypergradients(posed, GradientDescent(lr=0.1), 40, outer)
    assert found.keys() == EXACT.keys()
    for name, grad in found.items():
        assert (grad["x"] - expected).norm() < 1e-8 * expected.norm(), name


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= share <= 1, got 2"):
        task(share=2)

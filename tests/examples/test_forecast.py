"""Forecasts: weighted ridge regression in closed form, and the half-life that theory names."""

import math

import pytest
import torch
from exact_methods import EXACT, hypergradients
from forecast.forecast import FEATURES, ORIGINS, Forecast
from torch import Tensor

from bilevel_cli import autodiff, check_task
from bilevel_cli.solvers.momentum import Momentum


def task(drift: float = 0.05, forget: bool = True) -> Forecast:
    return Forecast(drift, forget, torch.device("cpu"), torch.Generator().manual_seed(0))


def fitted(posed: Forecast, log_half_life: Tensor, log_penalty: Tensor) -> Tensor:
    """w_t = (X' A X + P)^-1 X' A y on the examples before t, with weights A of half-life h."""
    rows = []
    for time in ORIGINS.tolist():
        x, y = posed.series["x"][:time], posed.series["y"][:time]
        ages = torch.arange(time - 1, -1, -1)
        weights = torch.exp(-math.log(2) * ages / log_half_life.exp())
        weighted = x.T * (weights / weights.sum())
        rows.append(torch.linalg.solve(weighted @ x + log_penalty.exp().diag(), weighted @ y))
    return torch.stack(rows)


@pytest.mark.parametrize("forget", [True, False])
def test_the_contract_of_tasks_is_kept(forget: bool) -> None:
    check_task(task(forget=forget))


def test_all_exact_methods_find_the_derivative_of_the_closed_form() -> None:
    posed = task()
    outer = {"log_half_life": torch.tensor(3.0), "log_penalty": torch.linspace(-1, 0, FEATURES)}

    def closed(outer: dict[str, Tensor]) -> Tensor:
        return posed.outer_loss({"w": fitted(posed, **outer)}, outer, posed.series)

    expected = autodiff.grad(closed)(outer)
    found = hypergradients(posed, Momentum(lr=0.4, momentum=0.3), 40, outer)
    assert found.keys() == EXACT.keys()
    for method, grad in found.items():
        for name, value in expected.items():
            assert (grad[name] - value).norm() < 1e-7 * value.norm(), (method, name)


def test_what_comes_later_changes_no_forecast() -> None:
    posed = task()
    later = {name: value.clone() for name, value in posed.series.items()}
    later["y"][ORIGINS[0] :] += 1.0
    w = {"w": torch.zeros(len(ORIGINS), FEATURES)}
    outer = posed.init_outer(torch.Generator())
    before, after = (
        autodiff.grad(posed.inner_loss)(w, outer, series)["w"] for series in (posed.series, later)
    )
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_a_drift_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="drift >= 0, got -1"):
        task(drift=-1)

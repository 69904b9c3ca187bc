"""Step sizes fall as c / (k + 1)^exponent, in both loops."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from problems import Plane

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.runs import checkpoint
from bilevel_cli.solvers.gd_decay import DecayingGradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm


@pytest.mark.parametrize(("initial", "exponent"), [(0.3, 0.0), (0.3, 0.5), (2.0, 1.0)])
def test_a_power_law_is_its_formula_for_numbers_and_for_counters(
    initial: float, exponent: float
) -> None:
    law = PowerLaw(initial, exponent)
    for step in (0, 1, 2, 99):
        expected = initial / (step + 1) ** exponent
        assert law(step) == expected
        counted = law(torch.tensor(float(step)))
        torch.testing.assert_close(counted, torch.tensor(expected), rtol=1e-14, atol=0)
    assert law(0) == initial


@pytest.mark.parametrize(
    ("initial", "exponent", "message"),
    [
        (0.0, 0.5, "PowerLaw needs a finite initial > 0, got initial=0.0"),
        (math.inf, 0.5, "PowerLaw needs a finite initial > 0, got initial=inf"),
        (math.nan, 0.5, "got initial=nan"),
        (1.0, -0.1, "PowerLaw needs exponent >= 0, got exponent=-0.1"),
        (1.0, math.nan, "got exponent=nan"),
    ],
)
def test_a_power_law_that_is_none_is_refused(initial: float, exponent: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PowerLaw(initial, exponent)


def scheduled(exponent: float) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    node = composed("scheduler=power", f"scheduler.lr_lambda.exponent={exponent}").scheduler
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    return optimizer, instantiate(node)(optimizer)


def take(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR, count: int
) -> list[float]:
    """The step sizes of the next outer steps."""
    sizes = []
    for _ in range(count):
        sizes.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["params"][0].grad = torch.zeros(1)
        optimizer.step()
        scheduler.step()
    return sizes


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_outer_step_size_falls_from_that_of_the_optimizer(exponent: float) -> None:
    expected = [0.2 / (step + 1) ** exponent for step in range(20)]
    assert take(*scheduled(exponent), 20) == pytest.approx(expected, rel=1e-14)


def test_a_scheduler_continues_from_a_checkpoint(tmp_path: Path) -> None:
    optimizer, scheduler = scheduled(0.5)
    first = take(optimizer, scheduler, 7)
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    checkpoint.save(tmp_path / "state.pt", state)
    loaded = checkpoint.load(tmp_path / "state.pt")  # weights only
    rest = take(optimizer, scheduler, 5)

    optimizer, scheduler = scheduled(0.5)
    optimizer.load_state_dict(loaded["optimizer"])
    scheduler.load_state_dict(loaded["scheduler"])
    assert take(optimizer, scheduler, 5) == rest
    assert first + rest == pytest.approx([0.2 / math.sqrt(k + 1) for k in range(12)], rel=1e-14)


PLANE = Plane()
OUTER: Params = {"x": PLANE.x}


def by_hand(steps: int, lr: PowerLaw) -> torch.Tensor:
    y = torch.tensor([0.0, 1.0])
    for t in range(steps):
        y = y - lr.initial / (t + 1) ** lr.exponent * (PLANE.A @ y - PLANE.B @ PLANE.x)
    return y


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_inner_steps_fall_as_their_power_law(exponent: float) -> None:
    lr = PowerLaw(0.2, exponent)
    loop = InnerLoop(PLANE, DecayingGradientDescent(lr), Cold())
    data = PLANE.data(9)
    state = loop.run(loop.fresh(OUTER, data), OUTER, data)
    torch.testing.assert_close(state["inner"]["y"], by_hand(9, lr), rtol=1e-13, atol=1e-15)


def test_the_count_goes_on_over_warm_outer_steps_and_begins_anew_at_cold_ones() -> None:
    lr, data = PowerLaw(0.2, 0.5), PLANE.data(1)
    for start, steps in ((Warm(), 6), (Cold(), 1)):
        loop = InnerLoop(PLANE, DecayingGradientDescent(lr), start)
        carry: Any = {"inner": loop.fresh(OUTER, data)}
        for _ in range(6):  # one inner step each: with a warm start t is the outer step
            carry = NoHypergradient().estimate(loop, OUTER, data, carry).carry
        assert carry["inner"]["count"] == steps
        torch.testing.assert_close(
            carry["inner"]["inner"]["y"], by_hand(steps, lr), rtol=1e-13, atol=1e-15
        )

"""Influence balancing, against numbers that were computed independently of this project."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.es_single import EsSingle
from bilevel_cli.methods.fixed_point import FixedPoint
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.pes import Pes
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.examples.influence_balancing import InfluenceBalancing

CPU = torch.device("cpu")
STEPS, WHOLE = 1000, Reverse(window=None, segment=None)


def made(averaged: bool = True, horizon: int = STEPS) -> InfluenceBalancing:
    return InfluenceBalancing(10, 13, 0.5, averaged, horizon, CPU)


def scores(theta: float, horizon: int = STEPS) -> dict[str, float]:
    task = made(horizon=horizon)
    loop = InnerLoop(task, GradientDescent(1.0), Cold())
    found = task.evaluate(loop, {"theta": torch.tensor(theta)}, {})
    return {name: float(value) for name, value in found.items()}


def passed(
    method: Hypergradient[Any], theta: float, window: int, steps: int = STEPS, **how: Any
) -> tuple[Tensor, Tensor]:
    """The mean of the estimates of all windows of one inner problem, and that of their losses."""
    start = how.pop("start", Warm())
    task = made(**how)
    loop, outer = InnerLoop(task, GradientDescent(1.0), start), {"theta": torch.tensor(theta)}
    data = task.sample(window, torch.Generator())
    generator = torch.Generator().manual_seed(0)
    carry = method.init(outer, loop.fresh(outer, data))
    slopes, losses = [], []
    for _ in range(steps // window):
        drawn = data._replace(noise=method.draw(outer, generator))
        found = method.estimate(loop, outer, drawn, carry)
        carry = found.carry
        slopes.append(found.grad["theta"])
        losses.append(found.loss)
    return torch.stack(slopes).mean(), torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("window", "expected"), [(1, -3.63), (10, -19.98), (50, -24.44), (100, 1.48), (1000, 25.17)]
)
def test_a_truncated_derivative_has_the_wrong_sign(window: int, expected: float) -> None:
    slope, loss = passed(WHOLE, 0.5, window)
    assert float(slope) == pytest.approx(expected, abs=0.005)
    assert float(loss) == pytest.approx(8.195, abs=5e-4)


def test_the_scores_are_those_of_the_whole_unroll() -> None:
    found = scores(0.5)
    assert found["loss"] == pytest.approx(8.195, abs=5e-4)
    assert found["slope"] == pytest.approx(25.17, abs=0.005)
    # The best theta was looked for on a grid of 0.005.
    assert 0.5 - found["distance"] == pytest.approx(-0.145, abs=0.0025)
    best = scores(0.5 - found["distance"])
    assert best["loss"] == pytest.approx(0.058, abs=5e-4)
    assert best["slope"] == pytest.approx(0.0, abs=1e-9)
    short = scores(0.5, horizon=100)
    assert 0.5 - short["distance"] == pytest.approx(-0.045, abs=0.0025)
    assert scores(0.5 - short["distance"], horizon=100)["loss"] == pytest.approx(0.185, abs=5e-4)


# True, and cut every 1, 10 and 100 steps, at each theta.
TABLE = {
    0.0: (5.70, -0.96, -5.26, -0.22),
    -0.145: (0.06, -0.18, -0.99, -0.71),
    -0.3: (-5.98, 0.65, 3.57, -1.24),
}


@pytest.mark.slow
@pytest.mark.parametrize("theta", TABLE)
def test_truncation_after_one_or_ten_steps_points_uphill_everywhere(theta: float) -> None:
    whole, *cut = TABLE[theta]
    assert scores(theta)["slope"] == pytest.approx(whole, abs=0.01)
    for window, expected in zip((1, 10, 100), cut, strict=True):
        assert float(passed(WHOLE, theta, window)[0]) == pytest.approx(expected, abs=0.01)


def test_truncated_backpropagation_settles_in_the_wrong_place_or_nowhere() -> None:
    def settles(window: int) -> tuple[float, float]:
        """The zero of the derivative, which is affine in theta, and its slope there."""
        low, high = (float(passed(WHOLE, theta, window)[0]) for theta in (0.0, 0.5))
        slope = (high - low) / 0.5
        return -low / slope, slope

    zero, slope = settles(100)
    assert slope > 0  # descent comes to it, from both sides
    assert zero == pytest.approx(0.065, abs=0.005)
    assert settles(10)[1] < 0  # descent flees from it


@pytest.mark.parametrize("window", [1, 50])
def test_es_single_finds_the_whole_derivative_from_windows(window: int) -> None:
    steps = 200
    method = EsSingle(pairs=2, std=0.3, horizon=steps // window)
    how: dict[str, Any] = {"averaged": False, "start": Cold()}
    found = float(passed(method, 0.5, window, steps, **how)[0])
    # The losses are quadratic, so a pair finds eps^2 / std^2 times the derivative, exactly.
    generator = torch.Generator().manual_seed(0)
    outer = {"theta": torch.tensor(0.5)}
    eps = method.draw(outer, generator)["theta"]
    expected = scores(0.5, horizon=steps)["slope"] * float(eps.square().mean()) / 0.3**2
    assert found == pytest.approx(expected, rel=1e-9)
    assert found > 0


def test_pes_goes_the_right_way() -> None:
    steps, window = 200, 50
    method = Pes(pairs=500, std=0.3, horizon=steps // window)
    found = float(passed(method, 0.5, window, steps, averaged=False, start=Cold())[0])
    assert found == pytest.approx(scores(0.5, horizon=steps)["slope"], rel=0.3)


@pytest.mark.parametrize("averaged", [False, True])
def test_at_rest_an_implicit_method_finds_the_late_influence(averaged: bool) -> None:
    # (I - A) s = theta c has s[0] = -6 theta: the derivative of (s[0] - 1)^2 / 2 is 36 theta + 6.
    methods: list[Hypergradient[Any]] = [
        Implicit(Exact(0.0, None), warm_adjoint=False, curvature="hessian", clip=None)
    ]
    if not averaged:  # a mean of 400 losses comes to rest too slowly for an iteration
        methods.append(FixedPoint(400, warm_adjoint=False))
    for method in methods:
        found = passed(method, 0.5, 400, 400, averaged=averaged, start=Cold())[0]
        assert float(found) == pytest.approx(24.0, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive": 0}, "positive >= 1, got positive=0"),
        ({"horizon": 0}, "horizon >= 1, got horizon=0"),
        ({"theta": float("nan")}, "a finite theta"),
    ],
)
def test_a_system_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    settings = {"positive": 10, "negative": 13, "theta": 0.5, "averaged": True, "horizon": 10}
    with pytest.raises(ValueError, match=message):
        InfluenceBalancing(**{**settings, **changes}, device=CPU)

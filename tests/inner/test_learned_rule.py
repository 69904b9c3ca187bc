"""The learned rule contains the optimizers that it should, and is differentiated as theory says."""

import math
from typing import Any

import pytest
import torch
from problems import Plane, estimate
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.learned_rule import LearnedRule
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold

RULE = LearnedRule(0.1, [0.5, 0.9], square_decay=0.99, eps=1e-8)
FULL = Reverse(window=None, segment=None)
PLANE = Plane()


def rule(plain: list[float], normalised: list[float], fall: float = 0.0) -> Params:
    numbers = {"plain": plain, "normalised": normalised, "fall": fall}
    exact = torch.float64
    return {f"rule.{name}": torch.tensor(value, dtype=exact) for name, value in numbers.items()}


def course(solver: InnerSolver[Any], outer: Params, steps: int) -> Tensor:
    data, loop = PLANE.data(steps), InnerLoop(PLANE, solver, Cold())
    outer = {"x": PLANE.x, **solver.outer_init(data.init), **outer}
    state, found = loop.fresh(outer, data), []
    for t in range(steps):
        state = loop.step(state, outer, data, t)
        found.append(state["inner"]["y"])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("outer", "solver"),
    [
        ({}, GradientDescent(0.1)),  # as it begins
        # Momentum adds up what a mean of decay 0.9 averages.
        (rule([0, 0, 0.2], [0, 0, 0]), Momentum(0.02, 0.9)),
        (rule([0, 0, 0], [0, 0, 0.05]), Adam(0.05, 0.9, 0.99, 1e-8)),
    ],
    ids=["gradient descent", "momentum", "Adam"],
)
def test_known_optimizers_are_rules(outer: Params, solver: InnerSolver[Any]) -> None:
    # Adam adds eps to a root, the rule its square under the root: alike to 1e-8 or so.
    torch.testing.assert_close(course(RULE, outer, 20), course(solver, {}, 20), rtol=1e-6, atol=0)


class Line:
    """f = a z^2 / 2 and F = z, of one number."""

    a, start = 0.7, 2.0

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * self.a * inner["z"] ** 2

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["z"]

    def data(self, steps: int) -> StepData:
        return StepData({"z": torch.tensor(self.start)}, {"unused": torch.zeros(steps)}, {})


@pytest.mark.parametrize("method", [FULL, Forward()])
def test_on_a_line_the_derivative_is_that_of_the_closed_form(method: Any) -> None:
    # With plain = (w, u) near u = 0 and fall = 0:  z_t = q^t z_0,  q = 1 - a w. A mean of decay b
    # is m_t = sum_k b^(t - k) (1 - b) a z_k, and a step adds -u m_t, which q carries on.
    solver, steps, w, b = LearnedRule(0.1, [0.9], 0.99, 1e-3), 5, 0.3, 0.9
    a, z0, q = Line.a, Line.start, 1 - Line.a * w
    outer = rule([w, 0], [0, 0])
    found = estimate(method, Line(), Line().data(steps), outer, solver=solver).grad
    by_weight = -steps * a * q ** (steps - 1) * z0
    by_mean = -sum(
        q ** (steps - 1 - t) * sum(b ** (t - k) * (1 - b) * a * q**k * z0 for k in range(t + 1))
        for t in range(steps)
    )
    # The step t has w (1 + t)^-fall, whose slope in fall is -w log(1 + t).
    by_fall = sum(a * w * math.log(1 + t) * q ** (steps - 1) * z0 for t in range(steps))
    torch.testing.assert_close(found["rule.plain"], torch.tensor([by_weight, by_mean]))
    torch.testing.assert_close(found["rule.fall"], torch.tensor(by_fall))


def test_settings_name_every_weight_of_the_rule() -> None:
    found = RULE.settings(rule([1, 2, 3], [4, 5, 6], 7))
    assert {name: float(value) for name, value in found.items()} == {
        "fall": 7.0,
        **{"plain.gradient": 1.0, "plain.decay_0.5": 2.0, "plain.decay_0.9": 3.0},
        **{"normalised.gradient": 4.0, "normalised.decay_0.5": 5.0, "normalised.decay_0.9": 6.0},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decays": [1.0]}, "decays in \\(0, 1\\)"),
        ({"decays": []}, "one or more"),
        ({"square_decay": 1.0}, "square_decay in"),
        ({"eps": 0.0}, "eps > 0"),
        ({"lr": 0.0}, "lr > 0"),
    ],
)
def test_an_impossible_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"lr": 0.1, "decays": [0.9], "square_decay": 0.9, "eps": 1e-3}
    with pytest.raises(ValueError, match=message):
        LearnedRule(**{**settings, **changes})

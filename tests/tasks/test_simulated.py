"""Simulated quadratics have the moments and the closed forms that they are drawn with."""

from typing import Any

import pytest
import torch
from problems import mean_over_blocks, seeded, simulated


def test_simulated_samples_have_the_moments_that_they_are_drawn_with() -> None:
    task = simulated(inner_samples=400_000, L_cross=0.4, batch_size=None)
    f = task.f
    log = torch.logspace(-1, 0, 6)
    # Entries of a mean of n products of numbers of order one: standard deviation 1 / sqrt(n).
    atol = 5 / 400_000**0.5
    torch.testing.assert_close(torch.linalg.eigvalsh(f.A), log, rtol=0, atol=3 * atol)
    outer = torch.linalg.eigvalsh(f.D)
    expected = torch.tensor([0.0, 0.1, 1.0])
    torch.testing.assert_close(outer, expected, rtol=0, atol=3 * atol)
    # From mu to L_cross evenly in logarithms; the largest first.
    singular = torch.linalg.svdvals(f.C)
    torch.testing.assert_close(singular, torch.tensor([0.4, 0.2, 0.1]), rtol=0, atol=5 * atol)
    assert f.a.abs().max() < atol
    assert f.d.abs().max() < atol


def test_the_mean_over_minibatches_of_simulated_samples_is_their_closed_form() -> None:
    task = simulated()
    assert task.blocks == (8, 8)
    z, x = torch.randn(6), torch.randn(3)
    f, F = mean_over_blocks(task, {"z": z}, {"x": x})
    torch.testing.assert_close(f, task.f.value(z, x), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(F, task.F.value(z, x), rtol=1e-11, atol=1e-13)
    assert simulated(batch_size=None, outer_batch_size=None).blocks == (1, 1)


def test_simulated_problems_begin_as_published_and_are_convex() -> None:
    task = simulated()
    assert task.init_outer(seeded())["x"].tolist() == [-2, -2, -2]
    assert task.sample(1, seeded()).init["z"].tolist() == [0] * 6
    # The value function lies above its tangents.
    for _ in range(20):
        x, other = torch.randn(3), torch.randn(3)
        rise = task.F.value(task.solution(other), other) - task.F.value(task.solution(x), x)
        assert rise >= task.hypergradient(x) @ (other - x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_dim": 0}, "SimulatedQuadratics needs inner_dim >= 1, got inner_dim=0"),
        ({"inner_samples": 5}, "needs inner_samples >= 6, got inner_samples=5"),
        ({"mu": 0.0}, r"SimulatedQuadratics needs mu in \(0, 1\], got mu=0.0"),
        ({"L_cross": -1.0}, "needs a finite L_cross > 0, got L_cross=-1.0"),
        ({"batch_size": 61}, "needs batch_size from 1 to 60"),
        ({"outer_samples": 1, "L_cross": 50.0, "outer_batch_size": 1}, "drew none in 20 problems"),
    ],
)
def test_an_impossible_simulation_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulated(**changes)

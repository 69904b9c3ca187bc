"""The weights of a Nash bargain, and their derivatives of every order that methods take."""

from functools import partial
from typing import Any

import pytest
import torch
from problems import seeded
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.tasks.auxiliary.bargaining import bargained

alpha = partial(bargained, newton_steps=30)


def game(players: int, seed: int = 0, entries: int = 7) -> tuple[Tensor, Tensor]:
    """Gradients, of shape [players, entries], and preferences."""
    source = seeded(seed)
    gradients = torch.randn(players, entries, generator=source)
    p = torch.rand(players, generator=source) + 0.1
    return gradients, p / p.sum()


def gram(gradients: Tensor) -> Tensor:
    return gradients @ gradients.mT


def residual(M: Tensor, p: Tensor, found: Tensor) -> float:
    """|A M alpha - p|: what is left of the equation, in the units of p."""
    return float((found * (M @ found) - p).abs().max())


def test_one_player_takes_a_step_of_length_sqrt_p() -> None:
    g = torch.tensor([[3.0, -4.0]])
    p = torch.tensor([0.36])
    torch.testing.assert_close(alpha(gram(g), p), p.sqrt() / 5, rtol=1e-12, atol=0)
    slope = autodiff.grad(lambda p: alpha(gram(g), p).sum())(p)
    torch.testing.assert_close(slope, 1 / (2 * 5 * p.sqrt()), rtol=1e-12, atol=0)


def test_orthogonal_gradients_are_weighted_one_by_one() -> None:
    lengths = torch.tensor([0.1, 1.0, 20.0])
    p = torch.tensor([0.2, 0.7, 0.1])
    found = alpha(torch.diag(lengths.square()), p)
    torch.testing.assert_close(found, p.sqrt() / lengths, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("players", [2, 3, 6])
def test_the_equation_is_solved_whatever_the_units(players: int, scale: float) -> None:
    for seed in range(5):
        gradients, p = game(players, seed)
        M = gram(gradients * scale ** torch.linspace(0, 1, players)[:, None])
        found = alpha(M, p)
        assert (found > 0).all()
        assert residual(M, p, found) < 1e-9
        # The step has the length of the preferences together, whatever the gradients.
        torch.testing.assert_close(found @ M @ found, p.sum(), rtol=1e-9, atol=0)


def test_the_default_number_of_steps_solves_hard_games() -> None:
    """Nearly parallel, nearly opposite, and a player of hardly any preference."""
    for angle in (1e-3, 3.0, 3.14):
        turn = torch.tensor([0.0, angle, 2.0])
        gradients = torch.stack([turn.cos(), turn.sin()], 1)
        for p in ([0.4, 0.5, 0.1], [0.4999, 0.5, 1e-4], [1e-4, 1e-4, 0.9998]):
            preference = torch.tensor(p)
            found = bargained(gram(gradients), preference, 20)
            # Opposed gradients cancel, and with them half of the digits.
            assert residual(gram(gradients), preference, found) < 1e-8


def test_no_other_step_of_its_length_has_a_larger_product_of_gains() -> None:
    gradients, p = game(3)
    step = alpha(gram(gradients), p) @ gradients

    def product(step: Tensor) -> Tensor:
        return (p * (gradients @ step / step.norm()).log()).sum()

    for away in 0.1 * torch.randn(50, 7, generator=seeded(1)):
        assert not product(step + away) > product(step)


def published(gradients: Tensor, p: Tensor) -> Tensor:
    """d alpha / d p = (G'G + diag(p / alpha^2))^-1 diag(1 / alpha), where G holds columns."""
    found = alpha(gram(gradients), p)
    return torch.linalg.solve(
        gram(gradients) + torch.diag(p / found.square()), torch.diag(1 / found)
    )


@pytest.mark.parametrize("by", ["reverse", "forward"])
def test_the_jacobian_in_the_preferences_is_the_published_one(by: str) -> None:
    gradients, p = game(3)

    def of(p: Tensor) -> Tensor:
        return alpha(gram(gradients), p)

    if by == "forward":
        found = autodiff.jacfwd(of)(p)
    else:
        found = torch.stack([autodiff.grad(lambda p, k=k: of(p)[k])(p) for k in range(3)])
    torch.testing.assert_close(found, published(gradients, p), rtol=1e-9, atol=1e-12)


def directional(order: int, fn: Any, x: Tensor, along: Tensor) -> Tensor:
    """A derivative of scalar `fn` along a line, by autograd."""
    value = fn
    for _ in range(order):
        value = partial(lambda x, value: autodiff.grad(value)(x) @ along, value=value)
    found: Tensor = value(x)
    return found


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("of", ["gradients", "preferences"])
def test_derivatives_of_three_orders_are_those_of_differences(of: str, order: int) -> None:
    gradients, p = game(3)
    x = gradients.flatten() if of == "gradients" else p
    along = torch.randn(len(x), generator=seeded(2))
    along *= (1.0 if of == "gradients" else 0.2) / along.norm()
    target = torch.tensor([1.0, -2.0, 0.5])

    def fn(x: Tensor) -> Tensor:
        M = gram(x.reshape(3, -1)) if of == "gradients" else gram(gradients)
        return target @ alpha(M, p if of == "gradients" else x)

    h = 1e-3
    values = [directional(order - 1, fn, x + k * h * along, along) for k in (-2, -1, 1, 2)]
    # Of fourth order in h: an error of 1e-12 times the fifth derivative, and rounding of 1e-12.
    expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    torch.testing.assert_close(directional(order, fn, x, along), expected, rtol=1e-7, atol=1e-8)


def test_forward_mode_through_reverse_mode_is_the_second_derivative() -> None:
    gradients, p = game(3)

    def slope(p: Tensor) -> Tensor:
        return autodiff.grad(lambda p: alpha(gram(gradients), p).square().sum())(p)

    rows = [autodiff.grad(lambda p, k=k: slope(p)[k])(p) for k in range(3)]
    torch.testing.assert_close(autodiff.jacfwd(slope)(p), torch.stack(rows), rtol=1e-9, atol=1e-9)


def test_games_can_be_mapped() -> None:
    games = [game(3, seed) for seed in range(4)]
    M = torch.stack([gram(gradients) for gradients, _ in games])
    p = torch.stack([p for _, p in games])
    singles = torch.stack([alpha(*one) for one in zip(M, p, strict=True)])
    torch.testing.assert_close(autodiff.vmap(alpha)(M, p), singles, rtol=1e-12, atol=0)

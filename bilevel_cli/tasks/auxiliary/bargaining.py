"""The weights of losses on which a Nash bargain agrees."""

import torch
from torch import Tensor

from bilevel_cli.core import dense

EXACT = 2  # Newton steps that derivatives go through


def bargained(gram: Tensor, preference: Tensor, newton_steps: int) -> Tensor:
    """The alpha > 0 with M alpha = p / alpha, entry by entry.

    M holds the inner products of K gradients and p the preferences of K players. The step
    sum_k alpha_k g_k then has the largest product of gains (g_k . step)^p_k among all steps of its
    length (Navon et al., 2022, arXiv:2202.01017; preferences: Shamsian et al., 2023,
    arXiv:2301.13501). alpha minimises the strictly convex

        alpha' M alpha / 2 - sum_k p_k log alpha_k

    and is found by Newton's method, with steps d alpha = alpha s, where A = diag(alpha) and

        (A M A + diag(p)) s = p - A M alpha.

    A step is shortened to d alpha = alpha s / (1 + max |s|). Then the function falls at every step
    by at least (w / m)^2 (m - log(1 + m)), with m = max |s| and w^2 = s' (A M A + diag(p)) s: the
    bound for self-concordant functions holds with m in place of w, since only the logarithms have a
    third derivative.

    Derivatives go through the last two steps alone, which are not shortened. A Newton step doubles
    the order to which its result follows the solution when M and p move. So behind a solution that
    counts as a constant, one step makes first derivatives exact and the second one second and third
    ones; that of the first step is (M + diag(p / alpha^2))^-1 diag(1 / alpha) dp, as published.

    Computed in float64 whatever the type of the run.

    Args:
        gram: M, of shape [K, K], positive semidefinite with a positive diagonal.
        preference: p, positive, of shape [K].
        newton_steps: How many shortened steps there are before.

    Returns:
        alpha, of shape [K], in the type of `gram`.
    """
    M, p = gram.double(), preference.double()
    found = _solved(M.detach(), p.detach(), newton_steps)
    for _ in range(EXACT):
        step = _step(found, M, p)
        # Whole, but for terms of fifth order; and positive should the solution not be found yet.
        found = _stretched(found * (1 + step / (1 + step.pow(4).sum())), M, p)
    return found.to(gram.dtype)


def _solved(M: Tensor, p: Tensor, newton_steps: int) -> Tensor:
    """The solution, without derivatives."""
    # The solution for orthogonal gradients, but for its length.
    found = _stretched((p / M.diagonal()).sqrt(), M, p)
    for _ in range(newton_steps):
        step = _step(found, M, p)
        found = _stretched(found * (1 + step / (1 + step.abs().max())), M, p)
    return found


def _stretched(alpha: Tensor, M: Tensor, p: Tensor) -> Tensor:
    """The best multiple of alpha, which Newton's steps find late where gradients are opposed."""
    return alpha * (p.sum() / (alpha @ M @ alpha)).sqrt()


def _step(alpha: Tensor, M: Tensor, p: Tensor) -> Tensor:
    """s, of shape [K]: Newton's step as a share of alpha."""
    scaled = alpha[:, None] * M * alpha
    return dense.solve(scaled + torch.diag(p), p - scaled.sum(1))

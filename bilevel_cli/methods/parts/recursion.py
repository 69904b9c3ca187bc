"""Running estimates of gradients that are corrected at the point before."""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.trees import Params, Scalar
from bilevel_cli.methods.parts.derivatives import (
    hessian_product,
    inner_slope,
    outer_slope,
    relative_residual,
)
from bilevel_cli.methods.parts.series import Series


class Pair(TypedDict):
    """A point (z, lambda), or the two gradients along which z and lambda move."""

    inner: Params
    outer: Params


class Samples(NamedTuple):
    """The minibatches of one pair of gradients.

    Attributes:
        inner: Of d_z f and of the cross derivative.
        outer: Of F.
        product: Of the i-th product with H, by i.
    """

    inner: Batch
    outer: Batch
    product: Callable[[int], Batch]


def old_weight(momentum: PowerLaw, count: Tensor) -> Tensor:
    """1 - momentum(k), and 0 at k = 0, where nothing is remembered yet. 0-dim."""
    return torch.where(count > 0, 1.0 - momentum(count), 0.0)


def within_period(period: int, count: Tensor) -> Tensor:
    """1, and 0 at every `period`-th step, from k = 0 on, which begins anew. 0-dim.

    Args:
        period: Steps from one that begins anew to the next.
        count: Steps before this one, a whole number, 0-dim and floating.
    """
    return torch.where(count % period > 0, 1.0, 0.0)


def check_weight(who: str, momentum: PowerLaw) -> None:
    """Raises ValueError where the weight of a new gradient exceeds one."""
    if momentum.initial > 1:
        raise ValueError(
            f"{who} needs a momentum weight <= 1, got momentum.initial={momentum.initial}. "
            "Set method.momentum.initial, e.g. 0.5."
        )


def check_period(who: str, period: int) -> None:
    """Raises ValueError where no number of outer steps lies between two on all examples."""
    if period < 1:
        raise ValueError(
            f"{who} needs period >= 1, got period={period}. Set method.period, e.g. to the outer "
            "steps in which minibatches show all examples once."
        )


def recursive(here: Params, there: Params, direction: Params, weight: Scalar) -> Params:
    """here + weight * (direction - there): STORM (Cutkosky & Orabona, 2019, arXiv:1905.10018).

    With weight 1, SARAH (Nguyen et al., 2017, arXiv:1703.00102).

    Args:
        here: A gradient at the present point.
        there: The gradient at the previous point, on the same minibatch.
        direction: What this function returned at the previous point.
        weight: The weight of what is remembered, 0-dim.
    """
    return {n: value + weight * (direction[n] - there[n]) for n, value in here.items()}


def recursive_pair(here: Pair, there: Pair, direction: Pair, weight: Scalar) -> Pair:
    """`recursive`, of both gradients."""
    return {
        "inner": recursive(here["inner"], there["inner"], direction["inner"], weight),
        "outer": recursive(here["outer"], there["outer"], direction["outer"], weight),
    }


def gradients(
    loop: InnerLoop, series: Series, at: Pair, samples: Samples, noise: Params
) -> tuple[Pair, Tensor]:
    """d_z f, and the hypergradient by a series, at one point; and the residual of the series.

    Args:
        loop: The inner loop.
        series: The Neumann series.
        at: The point.
        samples: The minibatches.
        noise: The random numbers of the series.

    Returns:
        The two gradients, of the shapes of z and of lambda; the relative residual, 0-dim.
    """
    problem, inner, outer = loop.problem, at["inner"], at["outer"]
    free = loop.free(inner)

    def product(number: int, vector: Params) -> Params:
        batch = samples.product(number)
        return trees.masked(hessian_product(problem, inner, outer, batch, vector), free)

    gradient, pullback = inner_slope(problem, inner, outer, samples.inner)
    rhs, direct, _ = outer_slope(problem, inner, outer, samples.outer)
    rhs = trees.masked(rhs, free)
    adjoint, left = series.sum(product, rhs, noise)
    _, implicit = pullback(adjoint)
    pair: Pair = {"inner": gradient, "outer": trees.axpy(-1.0, implicit, direct)}
    return pair, relative_residual(left, rhs)


def point(inner: Params, outer: Params) -> Pair:
    """The point, safe from an optimizer that moves the outer parameters in place."""
    return {"inner": inner, "outer": trees.map_leaves(torch.clone, outer)}

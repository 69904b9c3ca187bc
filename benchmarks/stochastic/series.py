"""Neumann series on minibatches, which several rules use."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers

Pair = tuple[Array, Array]  # of the inner and of the outer parameters: a point, or a direction


def summed(
    series: Any, problem: Problem, z: Array, outer: Array, rhs: Array, numbers: Numbers
) -> Array:
    """step_size * sum_j (I - step_size * H)^j rhs; or, at random, one term in the place of all.

    The whole series and one term as in `bilevel_cli/methods/parts/series.py`, each product on the
    next block of `extra`. Here the random term takes no product beyond its power.
    """
    extra = numbers["extra"]

    def next_term(term: Array, block: Array) -> Array:
        return term - series.step_size * problem.hessian_product(z, outer, block, term)

    if series.random:
        term = lax.fori_loop(
            0, numbers["power"], lambda number, term: next_term(term, extra[number]), rhs
        )
        return series.terms * series.step_size * term

    def one(pair: tuple[Array, Array], block: Array) -> tuple[tuple[Array, Array], None]:
        term = next_term(pair[0], block)
        return (term, pair[1] + term), None

    (_, total), _ = lax.scan(one, (rhs, rhs), extra[: series.products])
    return jnp.asarray(series.step_size, rhs.dtype) * total


def gradients(series: Any, problem: Problem, point: Pair, block: Array, numbers: Numbers) -> Pair:
    """The inner gradient and the hypergradient at a point; `block` is that of all but products."""
    z, outer = point
    rhs = problem.outer_slope(z, numbers["outer"])
    adjoint = summed(series, problem, z, outer, rhs, numbers)
    gradient = problem.inner_slope(z, outer, block)
    return gradient, -problem.cross_product(z, outer, block, adjoint)

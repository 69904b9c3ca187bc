"""SRBA."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, moved

Triple = tuple[Array, Array, Array]  # z, v and lambda, or their directions


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    nothing = jnp.zeros_like(inner)
    return {
        "adjoint": nothing,
        "previous": (inner, nothing, outer),
        "direction": (nothing, nothing, jnp.zeros_like(outer)),
    }


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    z, v, outer, count = (state[name] for name in ("inner", "adjoint", "outer", "count"))
    point = (z, v, outer)
    batch = numbers["inner"][0], numbers["outer"]

    def anew() -> Triple:
        return _directions(problem.whole, point, *batch)

    def corrected() -> Triple:
        here, there = (_directions(problem, at, *batch) for at in (point, state["previous"]))
        found: Triple = jax.tree.map(
            lambda d, new, old: d + new - old, state["direction"], here, there
        )
        return found

    direction = lax.cond(count % method.period == 0, anew, corrected)
    return moved(
        rates,
        state,
        direction[2],
        inner=z - rates.inner(count) * direction[0],
        adjoint=v - method.adjoint_lr * direction[1],
        previous=point,
        direction=direction,
    )


def _directions(problem: Problem, point: Triple, block: Array, judged: Array) -> Triple:
    z, v, outer = point
    gradient, product, implicit = problem.linearised(z, outer, block, v)
    return gradient, product - problem.outer_slope(z, judged), -implicit

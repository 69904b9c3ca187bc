"""SOBA."""

from typing import Any

import jax.numpy as jnp

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, moved


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {"adjoint": jnp.zeros_like(inner)}


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    z, v, outer, count = (state[name] for name in ("inner", "adjoint", "outer", "count"))
    gradient, product, implicit = problem.linearised(z, outer, numbers["inner"][0], v)
    rhs = problem.outer_slope(z, numbers["outer"])
    return moved(
        rates,
        state,
        -implicit,
        inner=z - rates.inner(count) * gradient,
        adjoint=v - method.adjoint_lr(count) * (product - rhs),
    )

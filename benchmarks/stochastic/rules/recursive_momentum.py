"""MRBO by a whole series, SUSTAIN by a random term of it."""

from typing import Any

import jax.numpy as jnp

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, moved
from benchmarks.stochastic.series import gradients


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {
        "previous": (inner, outer),
        "direction": (jnp.zeros_like(inner), jnp.zeros_like(outer)),
    }


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    here, count = (state["inner"], state["outer"]), state["count"]
    weight = jnp.where(count > 0, 1.0 - method.momentum(count), 0.0)

    def recursive(new: Array, old: Array, direction: Array) -> Array:
        return new + weight * (direction - old)

    new, old = (
        gradients(method.series, problem, point, numbers["inner"][0], numbers)
        for point in (here, state["previous"])
    )
    direction = tuple(map(recursive, new, old, state["direction"]))
    return moved(
        rates,
        state,
        direction[1],
        inner=here[0] - rates.inner(count) * direction[0],
        previous=here,
        direction=direction,
    )

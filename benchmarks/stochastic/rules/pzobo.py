"""PZOBO: the particles are one dimension more of every array."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, descended, moved


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {}


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    outer, directions = state["outer"], numbers["directions"]

    def last(outer: Array) -> Array:
        return descended(problem, rates, {**state, "outer": outer}, numbers["inner"])

    ends = jax.vmap(last)(jnp.concatenate([outer[None], outer + directions]))
    z = ends[0]
    slope = problem.outer_slope(z, numbers["outer"])
    weights = ((ends[1:] - z) * slope).reshape(len(directions), -1).sum(1)
    grad = weights / (method.std**2 * len(directions)) @ directions
    return moved(rates, state, grad, inner=z)

"""BOME."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, descended, moved


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {}


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    y, outer, block = state["inner"], state["outer"], numbers["inner"][-1]
    best = descended(problem, rates, {**state, "count": 0.0}, numbers["inner"])
    upper = problem.outer_slope(y, numbers["outer"])
    along, across = jax.grad(problem.inner_loss, (0, 1))(y, outer, block)
    across = across - jax.grad(problem.inner_loss, 1)(best, outer, block)
    norm2 = (along * along).sum() + (across * across).sum()
    some = norm2 > 0
    slack = method.eta - (upper * along).sum() / jnp.where(some, norm2, 1.0)
    multiplier = jnp.where(some, jnp.maximum(slack, 0.0), 0.0)
    y = y - rates.inner(state["count"]) * (upper + multiplier * along)
    return moved(rates, state, multiplier * across, inner=y)

"""F2SA."""

from typing import Any

import jax

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, descended, moved


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {"value": inner}


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    outer, blocks = state["outer"], numbers["inner"]
    multiplier = method.multiplier + method.growth * state["count"]

    def blend(y: Array, block: Array) -> Array:
        pull = problem.outer_slope(y, numbers["outer"]) / multiplier
        return problem.inner_slope(y, outer, block) + pull

    y = descended(problem, rates, state, blocks, blend)
    z = descended(problem, rates, state, blocks, start=state["value"])

    def gap(outer: Array) -> Array:
        return problem.inner_loss(y, outer, blocks[-1]) - problem.inner_loss(z, outer, blocks[-1])

    return moved(rates, state, multiplier * jax.grad(gap)(outer), inner=y, value=z)

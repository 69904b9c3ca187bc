"""FSLA."""

from typing import Any

import jax.numpy as jnp

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, descended, moved


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {
        "adjoint": jnp.zeros_like(inner),
        "previous": outer,
        "direction": jnp.zeros_like(outer),
    }


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    before, outer, count = (state[name] for name in ("adjoint", "outer", "count"))
    first, second = numbers["extra"]
    z = descended(problem, rates, state, numbers["inner"])
    rhs = problem.outer_slope(z, numbers["outer"])
    product = problem.hessian_product(z, outer, first, before)
    adjoint = before - method.adjoint_lr(count) * (product - rhs)
    weight = jnp.where(count > 0, 1.0 - method.momentum(count), 0.0)
    new = -problem.cross_product(z, outer, second, adjoint)
    old = -problem.cross_product(state["inner"], state["previous"], second, before)
    direction = new + weight * (state["direction"] - old)
    memory = {"inner": z, "adjoint": adjoint, "previous": outer, "direction": direction}
    return moved(rates, state, direction, **memory)

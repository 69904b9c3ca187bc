"""AmIGO."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, descended, moved


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {"adjoint": jnp.zeros_like(inner)}


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    outer, extra = state["outer"], numbers["extra"]
    z = descended(problem, rates, state, numbers["inner"])
    rhs = problem.outer_slope(z, numbers["outer"])

    def one(v: Array, block: Array) -> tuple[Array, None]:
        product = problem.hessian_product(z, outer, block, v)
        return v - method.adjoint_lr * (product - rhs), None

    adjoint, _ = lax.scan(one, state["adjoint"], extra[:-1])
    implicit = problem.cross_product(z, outer, extra[-1], adjoint)
    return moved(rates, state, -implicit, inner=z, adjoint=adjoint)

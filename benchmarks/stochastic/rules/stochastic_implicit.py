"""stocBiO by a whole series; BSA, and with one inner step TTSA, by a random term of it."""

from typing import Any

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, descended, moved
from benchmarks.stochastic.series import summed


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {}


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    outer = state["outer"]
    z = descended(problem, rates, state, numbers["inner"])
    rhs = problem.outer_slope(z, numbers["outer"])
    adjoint = summed(method.series, problem, z, outer, rhs, numbers)
    implicit = problem.cross_product(z, outer, numbers["extra"][-1], adjoint)
    return moved(rates, state, -implicit, inner=z)

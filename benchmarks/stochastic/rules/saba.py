"""SABA. The tables of gradients are written in place: scan gives its carry away."""

from typing import Any

import jax.numpy as jnp

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, moved

Memory = tuple[Array, Array]  # a row for each block, and their mean


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    def empty(like: Array, count: int) -> Memory:
        return jnp.zeros((count, *like.shape), like.dtype), jnp.zeros_like(like)

    train, validation = problem.counts
    return {
        "adjoint": jnp.zeros_like(inner),
        "gradients": empty(inner, train),
        "products": empty(inner, train),
        "implicits": empty(outer, train),
        "slopes": empty(inner, validation),
    }


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    z, v, outer, count = (state[name] for name in ("inner", "adjoint", "outer", "count"))
    seen, judged = numbers["inner"][0], numbers["outer"]
    gradient, product, implicit = problem.linearised(z, outer, seen, v)
    rhs = problem.outer_slope(z, judged)
    directions, memory = {}, {}
    for name, value, block in (
        ("gradients", gradient, seen),
        ("products", product, seen),
        ("implicits", implicit, seen),
        ("slopes", rhs, judged),
    ):
        directions[name], memory[name] = _reduced(state[name], value, block)
    return moved(
        rates,
        state,
        -directions["implicits"],
        inner=z - rates.inner(count) * directions["gradients"],
        adjoint=v - method.adjoint_lr * (directions["products"] - directions["slopes"]),
        **memory,
    )


def _reduced(memory: Memory, fresh: Array, block: Array) -> tuple[Array, Memory]:
    """SAGA's direction for the gradient of a block, and the memory with that gradient."""
    table, mean = memory
    change = fresh - table[block]
    return mean + change, (table.at[block].set(fresh), mean + change / len(table))

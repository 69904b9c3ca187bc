"""VRBO."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.stochastic.problems import Array, Problem
from benchmarks.stochastic.rules import Numbers, Rates, State, moved
from benchmarks.stochastic.series import Pair, gradients


def begin(method: Any, problem: Problem, inner: Array, outer: Array) -> State:
    return {
        "previous": (inner, outer),
        "direction": (jnp.zeros_like(inner), jnp.zeros_like(outer)),
    }


def step(method: Any, problem: Problem, rates: Rates, state: State, numbers: Numbers) -> State:
    series, outer, count = method.series, state["outer"], state["count"]
    blocks, products = numbers["inner"], method.series.products
    extra = numbers["extra"][:-1].reshape(len(blocks) + 1, products)
    last = numbers["extra"][-1]

    def corrected(direction: Pair, here: Pair, before: Pair, block: Array, own: Array) -> Pair:
        seen = {**numbers, "extra": own}
        new, old = (gradients(series, problem, at, block, seen) for at in (here, before))
        found: Pair = jax.tree.map(lambda d, n, o: d + n - o, direction, new, old)
        return found

    def one(carry: Any, given: Any) -> tuple[Any, None]:
        z, before, direction = carry
        number, block, own = given
        here = (z, outer)
        direction = corrected(direction, here, before, block, own)
        rate = rates.inner(count * len(blocks) + number)
        return (z - rate * direction[0], here, direction), None

    begun = state["inner"], state["previous"], state["direction"]
    given = jnp.arange(len(blocks)), blocks, extra[:-1]
    (z, before, direction), _ = lax.scan(one, begun, given)
    here = (z, outer)
    direction = lax.cond(
        count % method.period == 0,
        lambda: gradients(series, problem.whole, here, last, {**numbers, "extra": extra[-1]}),
        lambda: corrected(direction, here, before, last, extra[-1]),
    )
    return moved(rates, state, direction[1], inner=z, previous=here, direction=direction)

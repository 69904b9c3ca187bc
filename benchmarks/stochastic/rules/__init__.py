"""Update rules in JAX, a file for each file of `bilevel_cli/methods`, found by its name.

A file defines `begin(method, problem, inner, outer)`, the memory before the first step, and
`step(method, problem, rates, state, numbers)`, the state after an outer step. `method` is our
method, of which the settings are read. The state holds the arrays `inner` and `outer`, the outer
steps taken (`count`) and the memory. `numbers` says which blocks the step sees, and holds what else
is drawn:

    inner [K], outer [], extra [M]; power [] of a random term, directions [n, d].

Both are dicts of arrays. F sees no outer parameters in either problem: its derivative in them is
left out.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from benchmarks.stochastic.problems import Array, Problem
from bilevel_cli.core.schedules import PowerLaw

State = dict[str, Any]
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Rates:
    """Step sizes.

    Args:
        inner: Of inner steps, counted over the whole run.
        outer: Of outer steps.
    """

    inner: PowerLaw
    outer: PowerLaw


@dataclass(frozen=True)
class Rule:
    """A file of this folder, for one method."""

    begin: Callable[..., State]
    step: Callable[..., State]


def rule(method: Any) -> Rule | None:
    """The rule of a method of ours; None where there is none."""
    name = f"{__name__}.{type(method).__module__.rpartition('.')[2]}"
    if importlib.util.find_spec(name) is None:
        return None
    module = importlib.import_module(name)
    return Rule(module.begin, module.step)


def descended(
    problem: Problem,
    rates: Rates,
    state: State,
    blocks: Array,
    slope: Callable[[Array, Array], Array] | None = None,
    start: Array | None = None,
) -> Array:
    """The inner parameters after a step of SGD on each block.

    Args:
        problem: The problem.
        rates: The step sizes.
        state: Of the method.
        blocks: Numbers of the blocks.
        slope: The direction at (z, block); d_z f by default.
        start: Where to begin; at `inner` of the state by default.
    """
    outer = state["outer"]
    along = slope or (lambda z, block: problem.inner_slope(z, outer, block))
    first = state["count"] * len(blocks)

    def one(z: Array, number: Array) -> tuple[Array, None]:
        return z - rates.inner(first + number) * along(z, blocks[number]), None

    begun = state["inner"] if start is None else start
    if len(blocks) == 1:
        return one(begun, 0)[0]
    return lax.scan(one, begun, jnp.arange(len(blocks)))[0]


def moved(rates: Rates, state: State, grad: Array, **memory: Any) -> State:
    """The state after the outer step along a hypergradient, with what the method remembers."""
    outer = state["outer"] - rates.outer(state["count"]) * grad
    return {**state, "outer": outer, "count": state["count"] + 1, **memory}

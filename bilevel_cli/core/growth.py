"""What the memory and the time of an estimate grow with, as methods declare it.

Memory: every method holds the inner and the outer parameters, the data of a step and the graph of
an inner step or two. What it holds besides are `Part`s, which `Hypergradient.holds` lists. Three of
them: reverse mode holds a graph for each inner step, forward mode a solver state for each outer
parameter, and the exact solve of an implicit method holds the inner Hessian.

Time: `Hypergradient.cost` counts inner gradients and second-order products, each of which takes
about as long as reading the rows of a minibatch with every inner parameter.

By these declarations runs refuse what does not fit, advise after an error, and choose how much to
compute at once. None of them knows a method by its name.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Sizes(NamedTuple):
    """The sizes of one inner problem, all but `steps` and `blocks` in numbers that are stored.

    Attributes:
        steps: Inner steps, K.
        outer: Outer parameters.
        inner: Inner parameters, n.
        state: A state of the inner solver, which has the inner parameters and its memory.
        graph: The graph of one inner step. It grows with the rows of a minibatch.
        blocks: Blocks of inner and of outer examples.
    """

    steps: int
    outer: int
    inner: int
    state: int
    graph: int
    blocks: tuple[int, int] = (1, 1)


class Part(NamedTuple):
    """A part of what an estimate of one inner problem holds at once.

    Attributes:
        what: What it is, as a plural or an uncountable noun: "the graphs of 100 inner steps".
        numbers: How many numbers it stores, of the run's precision.
        less: What makes it smaller: settings to lower by their full names, such as "inner_steps",
            and options to choose instead, such as "method=reverse".
        within: Whether it is kept within device.memory_budget, by computing it in pieces.
    """

    what: str
    numbers: int
    less: tuple[str, ...]
    within: bool = False


Parts = tuple[Part, ...]


def numbers(parts: Parts, within: bool = True) -> int:
    """The numbers of all parts, or of those that no memory budget bounds."""
    return sum(part.numbers for part in parts if within or not part.within)


def advice(ways: Sequence[str]) -> str:
    """What to do with the ways of `Part.less`: "lower method.pairs or use method=reverse"."""
    options = [f"use {way}" for way in ways if "=" in way]
    return " or ".join([*(f"lower {way}" for way in ways if "=" not in way), *options])


def exponent(before: float, after: float, factor: float) -> float:
    """p, where a size `factor` times as large makes factor^p times as much of something."""
    return math.log(after / before) / math.log(factor)

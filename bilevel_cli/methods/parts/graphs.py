"""The graph of one inner step: the bytes that it holds, measured once for a loop."""

import weakref
from typing import Any

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.growth import Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData, blocks_of
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params, Tree

measured: dict[tuple[Any, ...], int] = {}
"""Bytes of the graph of one step, by the identity of a loop and the shapes of its arguments."""


NODE = 1000
"""Bytes of a node of a graph besides the tensors that it saves: torch's objects, and small blocks.

Resident memory over 2,500 steps, less those tensors, a node: 920 to 1,240 bytes, on six problems of
21 to 42 nodes a step whose tensors were 2 to 72 % of all (torch 2.13, x86-64, on one core).
"""


def nodes(after: Tree, before: Tree) -> int:
    """The nodes of the graph that leads from some tensors to others.

    Args:
        after: The tensors at its end.
        before: The tensors at its beginning, from which `after` was computed.
    """
    seen: set[Any] = {x.grad_fn for x in trees.leaves(before)}
    known, ahead = len(seen), [x.grad_fn for x in trees.leaves(after)]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead.extend(following for following, _ in node.next_functions)
    return len(seen) - known


def graph_bytes(loop: InnerLoop, outer: Params, data: StepData) -> int:
    """Bytes of the graph of one inner step, from two steps that are taken on the first minibatch.

    Args:
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of one inner problem.
    """
    meter, readings = autodiff.HeldBytes(), []

    def steps(state: SolverState, outer: Params) -> SolverState:
        for _ in range(2):
            before = state
            with meter:
                state = loop.step(state, outer, data, 0)
            readings.append(meter.total())
        readings.append(NODE * nodes(state, before))
        return state

    held = autodiff.vjp(steps, loop.fresh(outer, data), outer)
    del held  # the graphs were there until here
    first, both, around = readings
    return max(both - first + around, 1)  # free of data and of constants


def graph_of_step(loop: InnerLoop, outer: Params, data: StepData) -> int:
    """As `graph_bytes`, measured once for a loop."""
    name = key(loop, outer, data)
    if name not in measured:
        remember(loop, name, graph_bytes(loop, outer, data))
    return measured[name]


def known(loop: InnerLoop) -> int:
    """The largest bytes of a graph of one step that were measured for a loop; 0 if none were."""
    return max((size for name, size in measured.items() if name[0] == id(loop)), default=0)


def key(loop: InnerLoop, outer: Params, data: StepData) -> tuple[Any, ...]:
    """The name under which a loop and the shapes of its arguments are remembered."""
    parts = trees.leaves((outer, data.init, data.inner, data.outer))
    return id(loop), *(part.shape for part in parts), parts[0].dtype


def remember(loop: InnerLoop, name: tuple[Any, ...], size: int) -> None:
    """Remembers bytes under the name of `key`, for as long as the loop is there."""
    if name not in measured:
        weakref.finalize(loop, measured.pop, name, None)
    measured[name] = max(size, 1)


def sized(loop: InnerLoop, outer: Params, data: StepData) -> Sizes:
    """The sizes of an inner problem; those of a graph are 0 as long as nobody has measured them.

    Args:
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of one inner problem.
    """
    size = next(iter(outer.values())).element_size()
    return Sizes(
        steps=data.num_steps,
        outer=trees.size(outer),
        inner=trees.size(data.init),
        state=sum(part.numel() for part in trees.leaves(loop.fresh(outer, data))),
        graph=-(-measured.get(key(loop, outer, data), 0) // size),
        blocks=blocks_of(loop.problem),
    )

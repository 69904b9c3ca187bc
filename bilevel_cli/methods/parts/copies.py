"""Many copies of one inner problem, as many at once as the memory budget of the device holds.

Particles are copies at other outer parameters; tangents are derivatives that go along with the
inner steps. Both are mapped over: faster than one by one, and larger by as many copies.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, counting, trees
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData, episodes_of
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.machine import memory
from bilevel_cli.methods.parts import graphs
from bilevel_cli.methods.parts.unroll import counted


def particles(sizes: Sizes, count: int, less: str, carried: bool = False) -> Parts:
    """What particles hold at once.

    Args:
        sizes: Of the inner problem.
        count: Particles.
        less: The setting that lowers their number.
        carried: Whether their states are remembered from one outer step to the next.
    """
    stored = count * ((2 + carried) * sizes.state + 4 * sizes.outer)
    return (
        Part(
            f"the inner gradients of {count} particles", count * sizes.graph, (less,), within=True
        ),
        Part(f"the states and perturbations of {count} particles", stored, (less,)),
    )


def tangents(sizes: Sizes, count: int, less: str) -> Parts:
    """What derivatives along `count` directions hold at once; arguments as in `particles`."""
    each = sizes.outer + 2 * sizes.state + 3 * sizes.graph // 2
    return (Part(f"the derivatives along {count} directions", count * each, (less,), within=True),)


def at_once(
    holds: Callable[[Sizes, int, str], Parts],
    count: int,
    loop: InnerLoop,
    outer: Params,
    data: StepData,
) -> int:
    """How many of `count` copies the memory budget holds: all of them where nobody has measured.

    Args:
        holds: `particles` or `tangents`.
        count: Copies.
        loop: The inner loop.
        outer: The outer parameters, of one copy.
        data: The data of one inner problem.
    """
    if torch.compiler.is_compiling():  # it cannot look up what was measured
        return count
    sizes = graphs.sized(loop, outer, data)
    if not sizes.graph:
        return count
    size = next(iter(outer.values())).element_size()
    held = sum(part.numbers for part in holds(sizes, 1, "") if part.within) * size
    return max(1, min(count, memory.budget(episodes_of(loop.problem) or 1) // held))


def evaluations(steps: int, count: int, at_once: int, outer: Params) -> dict[str, Tensor]:
    """The inner gradients of forward mode in pieces, as a metric; nothing where there is one.

    Args:
        steps: Inner steps, which each piece takes anew.
        count: Tangents.
        at_once: Tangents of a piece.
        outer: The outer parameters, for their device.
    """
    pieces = -(-count // at_once)
    return {"inner_grads": counted(pieces * steps, outer)} if pieces > 1 else {}


def measure(loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Measures, by two inner steps before the first estimate, how many copies fit.

    Within an estimate these steps would be taken, and not be counted.
    """
    if not autodiff.mapped():
        graphs.graph_of_step(loop, outer, data)


def mapped(fn: Callable[..., Tree], at_once: int, *arguments: Tree) -> Tree:
    """`fn` over a leading dimension of its arguments, so many at once; the same to rounding.

    Args:
        fn: A function of trees of tensors, of one copy.
        at_once: Copies that are mapped at once.
        arguments: Trees of tensors with a leading dimension of copies.
    """
    count = len(trees.leaves(arguments)[0])
    if at_once >= count:
        return autodiff.vmap(fn)(*arguments)
    firsts = range(0, count, at_once)
    pieces = []
    for first in counting.counted(firsts, len(firsts)):
        some = trees.map_leaves(lambda x, first=first: x[first : first + at_once], arguments)
        pieces.append(autodiff.vmap(fn)(*some))
    return trees.map_leaves(lambda *parts: torch.cat(parts), *pieces)

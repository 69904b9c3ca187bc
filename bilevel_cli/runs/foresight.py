"""What outer steps will take, judged before any work: refused where it does not fit."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import growth, trees
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.host import is_host
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient, cost_of
from bilevel_cli.core.problem import Batch, StepData, episodes_of
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.machine import memory
from bilevel_cli.methods.parts import graphs

log = logging.getLogger(__name__)

MANY = 1000  # products of an estimate above which they are told, where reverse mode takes fewer
FEW = 8  # inner steps whose minibatches nobody asks about before they are drawn


class Foreseen(NamedTuple):
    """What is known of an outer step before the first one.

    Attributes:
        sizes: Of one inner problem.
        minibatches: Numbers in the minibatches of all inner steps.
        draws: Random numbers of all inner steps.
    """

    sizes: Sizes
    minibatches: int
    draws: int = 0

    def parts(self, method: Hypergradient[Any], loop: InnerLoop, graph: int) -> Parts:
        """What one inner problem holds at once, where the graph of a step has so many numbers."""
        sizes = self.sizes._replace(graph=graph)
        what, less = "the minibatches of all inner steps", ("inner_steps", "task.batch_size")
        parts = (*method.holds(sizes), *loop.start.holds(sizes))
        if sizes.steps > 1 and self.minibatches:
            parts = (*parts, Part(what, self.minibatches, less))
        if self.draws:
            parts = (*parts, Part("the random numbers of all inner steps", self.draws, less[:1]))
        return parts


def check_memory(
    method: Hypergradient[Any], loop: InnerLoop, outer: Params, data: StepData
) -> Foreseen:
    """Raises ValueError where what an estimate holds does not fit, and tells of what takes long.

    Args:
        method: The method.
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of one inner problem.

    Returns:
        What was judged.
    """
    some = next(iter(outer.values()))
    known = foreseen(loop, outer, data)
    parts = known.parts(method, loop, known.sizes.graph)
    limit = memory.limit(some.device, _at_once(loop, some.device))
    for part in parts:
        needed = part.numbers * some.element_size()
        if not part.within and needed > limit:
            raise ValueError(
                f"{type(method).__name__} needs {_size(needed)} for {part.what}, got "
                f"{_available(limit)}. {growth.advice(part.less).capitalize()}{_or_more()}."
            )
    try:
        products = float(cost_of(method, loop, data.num_steps, outer, data.init, {}).hvps)
    except KeyError:  # as many as an estimate will report
        return known
    if products > max(MANY, 2 * data.num_steps):
        holds = [
            f", and holds {_size(part.numbers * some.element_size())} for {part.what}"
            for part in parts
            if not part.within
        ]
        log.warning(
            "An outer step by %s takes %.0f second-order products of each inner problem%s.",
            type(method).__name__,
            products,
            "".join(holds),
        )
    return known


def check_minibatches(draw: Callable[[int], StepData], steps: int, device: torch.device) -> None:
    """Raises ValueError where the minibatches of all inner steps do not fit into memory.

    Args:
        draw: Draws the data of an outer step of so many inner steps.
        steps: Inner steps.
        device: Where the data are.
    """
    if steps <= FEW:
        return
    one, two = (_bytes(tuple(draw(count))) for count in (1, 2))
    needed, limit = (two - one) * steps, memory.limit(device)
    if needed > limit:
        raise ValueError(
            "A run draws the minibatches and random numbers of all inner steps at once, which are "
            f"{_size(needed)} for inner_steps={steps}, got {_available(limit)}. Lower inner_steps "
            f"or task.batch_size{_or_more()}."
        )


def foreseen(loop: InnerLoop, outer: Params, data: StepData) -> Foreseen:
    """What is known of an outer step; arguments as in `check_memory`."""
    size = next(iter(outer.values())).element_size()
    drawn = 0 if _repeats(data.inner) else _bytes(data.inner) // size
    return Foreseen(graphs.sized(loop, outer, data), drawn, trees.size(data.draws))


def _repeats(batch: Batch) -> bool:
    """Whether one minibatch serves for all inner steps, without a copy."""
    return all(value.stride(0) == 0 for value in batch.values())


def _at_once(loop: InnerLoop, device: torch.device) -> int:
    """Inner problems that are solved at once."""
    problems = episodes_of(loop.problem) or 1
    return min(problems, torch.get_num_threads()) if is_host(device) else problems


def _available(limit: int) -> str:
    return (
        f"{_size(limit)} by device.memory_budget"
        if memory.budgeted()
        else f"{_size(limit)} of free memory"
    )


def _or_more() -> str:
    return ", or raise device.memory_budget" if memory.budgeted() else ""


def _bytes(tree: Tree) -> int:
    def stored(x: Tensor) -> int:
        return trees.narrow(x, x).numel() * x.element_size()

    return sum(map(stored, trees.leaves(tree)))


def _size(count: float) -> str:
    """Bytes in the largest unit of which there is one: 1.5 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"

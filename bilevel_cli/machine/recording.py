"""Many steps as one recording of their kernels: what `looping` is on a CPU, for a GPU.

A recording holds some steps in a row, and is launched as often as it takes. All that tells one step
from another lies on the device, so no step waits for the host.
"""

import logging
from collections.abc import Callable

import torch

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Tree
from bilevel_cli.errors import out_of_memory
from bilevel_cli.machine.capture import WARM_UP, nesting
from bilevel_cli.machine.looping import Loop, NotCompiled, Step

log = logging.getLogger(__name__)

# Steps of a recording. The longest that fits comes first, and those after it take what is left.
SIZES = (16, 4, 1)

# Takes a function, and how often to call it before it is recorded; else as `capture.Record`.
Record = Callable[[Callable[[], Tree], int], tuple[Tree, Callable[[], None]]]


def recorded(step: Step, moving: Tree, given: Tree, record: Record) -> Loop:
    """A loop over `step`, as recordings of several steps each.

    Args:
        step: A pure function whose control flow no tensor decides.
        moving: Tensors of one device, for their shapes.
        given: Tensors of it with a leading dimension, of steps; no loop may take more.
        record: Records a function.

    Returns:
        A loop that takes trees of the shapes and types of `moving` and `given`.

    Raises:
        NotCompiled: The step waits for the device or changes the shape of what moves, or memory
            holds no recording of it.
    """
    try:
        return _Recorded(step, moving, given, record)
    except NotCompiled:
        raise
    except Exception as error:  # of torch, which raises whatever its parts do
        reason = error.__cause__ or error  # an error of usage says what to do, and its cause why
        raise NotCompiled((str(reason) or type(reason).__name__).splitlines()[0]) from error


class _Recorded:
    """Recordings on buffers of their own, so that what moves stays where it is while one is made.

    Args:
        step, moving, given, record: As `recorded` takes them.
    """

    def __init__(self, step: Step, moving: Tree, given: Tree, record: Record) -> None:
        self._step, self._record = step, record
        self._moving = trees.map_leaves(lambda x: x.clone(), moving)
        self._given = given
        device = trees.leaves(given)[0].device
        self._first = torch.zeros(1, dtype=torch.int64, device=device)  # step of a recording
        self._places = torch.arange(SIZES[0], device=device)
        self._sizes: tuple[int, ...] = SIZES
        # One step comes first: libraries choose their kernels in it.
        self._recordings = {1: record(lambda: self._steps(1), WARM_UP)}

    def __call__(self, moving: Tree, given: Tree, steps: int) -> Tree:
        parts = self._parts(steps)
        trees.map_leaves(trees.written, self._moving, moving)
        trees.map_leaves(trees.written, self._given, given)
        first, report = 0, None
        for count in parts:
            self._first.fill_(first)
            report, replay = self._recordings[count]
            replay()
            first += count
        trees.map_leaves(trees.written, moving, self._moving)
        return trees.map_leaves(lambda x: x.clone(), report)  # the next replay writes there

    def _parts(self, steps: int) -> list[int]:
        """The sizes of the recordings that take so many steps, all of which are made by now."""
        found: list[int] = []
        for size in self._sizes:
            count, steps = divmod(steps, size)
            found += [size] * count
        for size in dict.fromkeys(found):
            if size not in self._recordings and not self._made(size):
                return self._parts(sum(found) + steps)
        return found

    def _made(self, size: int) -> bool:
        """Records so many steps. Returns whether memory holds that; else it is not tried again."""
        try:
            self._recordings[size] = self._record(lambda: self._steps(size), 1)
        except Exception as error:
            if not out_of_memory(error):
                raise
            log.info("Memory holds no recording of %d outer steps.", size)
            self._sizes = tuple(other for other in self._sizes if other < size)
            return False
        return True

    def _steps(self, count: int) -> Tree:
        """Takes steps on the buffers. Returns what the last one reports."""
        places = self._first + self._places[:count]
        given = trees.map_leaves(lambda x: x.index_select(0, places), self._given)
        own = {_memory(x) for x in trees.leaves(self._moving)}

        def apart(x: torch.Tensor) -> torch.Tensor:
            """A tensor that stays as it is while the buffers are written."""
            return x.clone() if _memory(x) in own else x

        report: Tree = None
        for number in range(count):
            one = trees.map_leaves(lambda x, number=number: x[number], given)
            after, report = self._step(self._moving, one)
            if nesting(after) != nesting(self._moving):
                raise NotCompiled("what moves changes its entries")
            report = trees.map_leaves(apart, report)
            new = trees.map_leaves(lambda x, y: y if x is y else apart(y), self._moving, after)
            trees.map_leaves(_replaced, self._moving, new)
        return report


def _replaced(x: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if (x.shape, x.dtype) != (new.shape, new.dtype):
        raise NotCompiled("what moves changes its shape")
    return trees.written(x, new)


def _memory(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()

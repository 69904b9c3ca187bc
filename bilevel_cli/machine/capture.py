"""Capture of the outer step: by torch.compile, or as kernels recorded once and launched together.

CUDA graphs are of NVIDIA's GPUs. Another accelerator that records kernels adds a `Record` here.
"""

import contextlib
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.errors import UsageError, out_of_memory

# Takes a function. Returns the tensors of its result, and a function that computes them again in
# the same memory.
Record = Callable[[Callable[[], Tree]], tuple[Tree, Callable[[], None]]]

WARM_UP = 3  # calls, as many as torch's own tools make, in which libraries choose their kernels


def captured(step: OuterStep, how: str | None, device: torch.device) -> OuterStep:
    """`step`, captured as `device.capture` says.

    Args:
        step: An outer step whose control flow depends on no tensor.
        how: "compile", "cuda_graph" or None.
        device: Where its tensors live.
    """
    if how == "compile":
        return autodiff.compiled(step)
    return Replayed(step, lambda fn: cuda_graph(fn, device)) if how == "cuda_graph" else step


class Replayed:
    """An outer step that is recorded at its first call, and replayed at every call.

    Data of other entries than before have a recording of their own: a method may be given all
    examples now and then. Where the memory has other entries, the recording is made anew: a pool of
    inner iterates begins with the first outer step, and so is in the memory of the second.

    Kernels are replayed on the memory they were recorded on. So each call copies its arguments into
    buffers, and returns copies of the results, which the next call leaves alone. Where data repeat
    along a dimension, as full batches do, a buffer holds one copy.

    Args:
        step: An outer step whose control flow depends on no tensor. Its data must have the same
            shapes at every call.
        record: Records it.
    """

    def __init__(self, step: OuterStep, record: Record) -> None:
        self._step, self._record = step, record
        self._recordings: dict[Hashable, _Recording] = {}  # by the entries of the data

    def __call__(self, outer: Params, data: StepData, carry: Any) -> Estimate:
        kind, given = nesting(tuple(data)), (outer, data, carry)
        known = self._recordings.get(kind)
        if known is not None and nesting(known.buffers) != nesting(given):
            del self._recordings[kind]  # before the next one: memory may not hold both
            known = None
        if known is None:
            buffers = (
                trees.map_leaves(torch.clone, outer),
                StepData(*trees.map_leaves(trees.copied, data)),
                trees.map_leaves(torch.clone, carry),  # whole: it may repeat at the first step only
            )
            known = _Recording(buffers, *self._record(lambda: self._step(*buffers)))
            self._recordings[kind] = known  # now: a call may raise, and be made again
        else:
            trees.map_leaves(_fill, known.buffers, given)
        known.replay()
        return Estimate(*trees.map_leaves(torch.clone, known.results))


class _Recording(NamedTuple):
    buffers: tuple[Params, StepData, Any]
    results: Tree
    replay: Callable[[], None]


def cuda_graph(
    fn: Callable[[], Tree], device: torch.device, warm_up: int = WARM_UP
) -> tuple[Tree, Callable[[], None]]:
    """Records `fn` in a CUDA graph.

    Where it raises, torch and the GPU are as before.

    Args:
        fn: Computes on tensors of the device.
        device: The GPU.
        warm_up: How often to call `fn` before.

    Returns:
        The tensors of its result, and a function that computes them again in the same memory.

    Raises:
        UsageError: `fn` waits for the device, or does something else that no graph can hold.
        Exception: What `fn` raises of other kinds; or there is too little memory for its graph.
    """
    with torch.cuda.device(device):
        # The warm-up and the recording share a side stream: libraries keep a handle for each
        # stream, and cannot make one while they are recorded.
        stream = _side_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # which torch leaves current where a recording fails
            for _ in range(warm_up):
                fn()
            recorded = _recorded(fn, stream)
        torch.cuda.current_stream().wait_stream(stream)
    return recorded


@functools.cache
def _side_stream(current: int) -> torch.cuda.Stream:
    """One for all recordings on the current device: cuBLAS keeps tens of MiB for each stream."""
    del current
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def _recorded(fn: Callable[[], Tree], stream: torch.cuda.Stream) -> tuple[Tree, Callable[[], None]]:
    """As `cuda_graph`, on a stream that is current and on which `fn` was called before."""
    graph, pool = torch.cuda.CUDAGraph(), None
    with contextlib.suppress(RuntimeError):  # of a torch that has none to give
        pool = torch.cuda.graph_pool_handle()
    first: BaseException | None = None
    try:
        with torch.cuda.graph(graph, pool, stream):
            try:
                return fn(), graph.replay
            except BaseException as error:
                first = error
                raise
    except BaseException as last:
        _abandon(graph, pool)
        # torch ends the recording whatever happened, and then with an error of its own.
        reason = first or last
    if out_of_memory(reason) or not isinstance(reason, RuntimeError):
        raise reason
    words = (str(reason) or type(reason).__name__).splitlines()[0]
    raise UsageError(
        "device.capture=cuda_graph needs an outer step that never waits for the GPU, got one that "
        f"no graph can hold: {words} Use device.capture=null."
    ) from reason


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int] | None) -> None:
    """Ends what torch begins with a recording, and leaves open where the recording fails.

    The GPU is told first that the recording ends. Where it refuses, torch goes no further: its
    allocator gives the memory of the graph to whatever runs next, and dies of an assertion when
    the next recording asks it to free what it can.
    """
    device = torch.cuda.current_device()
    # An allocator that was told raises; and the functions are torch's own, which it may lack.
    with contextlib.suppress(RuntimeError, AttributeError):
        if pool is not None:
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
            _abandoned.append(graph)
    with contextlib.suppress(RuntimeError, AttributeError):  # of a GPU that does nothing any more
        graph.reset()
    _side_stream.cache_clear()  # the GPU may take it for one that is recorded


# torch's allocator of pinned memory cannot be told, and keeps asking such a graph, empty as it is.
_abandoned: list[torch.cuda.CUDAGraph] = []


def nesting(tree: Tree) -> Hashable:
    """The names of all entries of a tree, in whatever order they are."""
    if isinstance(tree, dict):
        return frozenset((name, nesting(value)) for name, value in tree.items())
    return None if tree is None or isinstance(tree, Tensor) else tuple(map(nesting, tree))


def _fill(buffer: Tensor, x: Tensor) -> Tensor:
    same = x.shape == buffer.shape and x.dtype == buffer.dtype
    dims = zip(buffer.shape, buffer.stride(), x.stride(), strict=True)
    if not same or any(size > 1 and own == 0 != new for size, own, new in dims):
        raise UsageError(
            "device.capture=cuda_graph needs tensors of one shape, type and layout, got "
            f"{list(x.shape)} of {x.dtype} after {list(buffer.shape)} of {buffer.dtype}. "
            "Use device.capture=null."
        )
    trees.narrow(buffer, buffer).copy_(trees.narrow(x, buffer))
    return buffer

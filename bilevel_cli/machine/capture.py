"""Capture of the outer step: its kernels recorded once, and then launched together."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.errors import UsageError

# Takes a function; returns the tensors of its result, and what computes them again where they are.
Record = Callable[[Callable[[], Tree]], tuple[Tree, Callable[[], None]]]

WARM_UP = 3  # calls in which libraries load and choose their kernels, as torch's own tools make


def captured(step: OuterStep, how: str | None, device: torch.device) -> OuterStep:
    """`step`, captured as `device.capture` says.

    Args:
        step: Whose control flow no tensor decides.
        how: "compile", "cuda_graph" or None.
        device: Where its tensors live.
    """
    if how == "compile":
        return autodiff.compiled(step)
    return Replayed(step, lambda fn: cuda_graph(fn, device)) if how == "cuda_graph" else step


class Replayed:
    """An outer step that is recorded at its first call, and replayed at each one.

    Kernels are replayed on the memory they were recorded on. So each call copies its arguments to
    buffers, and copies the results, which outlive the next call. Of data that repeat along a
    dimension, as full batches do, a buffer holds one copy.

    Args:
        step: Whose control flow no tensor decides, on data of the same shapes at every call.
        record: Records it.
    """

    def __init__(self, step: OuterStep, record: Record) -> None:
        self._step, self._record = step, record
        self._buffers: tuple[Params, StepData, Any] | None = None
        self._results: Tree = None
        self._replay: Callable[[], None] = lambda: None

    def __call__(self, outer: Params, data: StepData, carry: Any) -> Estimate:
        if self._buffers is None:
            buffers = self._buffers = (
                trees.map_leaves(torch.clone, outer),
                StepData(*trees.map_leaves(trees.copied, data)),
                trees.map_leaves(torch.clone, carry),  # whole: it may repeat at the first step only
            )
            self._results, self._replay = self._record(lambda: self._step(*buffers))
        else:
            trees.map_leaves(_fill, self._buffers, (outer, data, carry))
        self._replay()
        return Estimate(*trees.map_leaves(torch.clone, self._results))


def cuda_graph(fn: Callable[[], Tree], device: torch.device) -> tuple[Tree, Callable[[], None]]:
    """Records `fn` in a CUDA graph.

    Returns:
        The tensors of its result, and the function that computes them again where they are.

    Raises:
        UsageError: It waits for the device, or does something else that no graph can hold.
    """
    with torch.cuda.device(device):
        # One side stream for all: libraries keep a handle for each stream, and make none while
        # they are recorded.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                fn()
        torch.cuda.current_stream().wait_stream(stream)
        try:
            with torch.cuda.graph(graph, stream=stream):
                results = fn()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = error.__context__ or error  # torch ends the recording with an error of its own
            raise UsageError(
                "device.capture=cuda_graph needs an outer step that never waits for the GPU, got "
                f"one that no graph can hold: {str(reason).splitlines()[0]} Use capture=null."
            ) from error
    return results, graph.replay


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

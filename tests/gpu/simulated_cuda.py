"""A CUDA device for a torch without CUDA: numbers of the CPU, and the manners of a GPU.

Within `simulated()`, what says "cuda" runs. Tensors say cuda:0. Mixing devices, drawing from the
wrong generator, and what a graph cannot hold raise what they raise on a GPU; waits of the host are
counted, and are errors after `torch.cuda.set_sync_debug_mode("error")`. A CUDA graph is a list of
operations, repeated on the memory on which they were recorded. Backward passes run on a thread of
their own. A copy that is not waited for has nonsense in it until somebody waits.

It shows no real kernel, and so neither their rounding nor whether their results repeat; no race
between streams; no fragmentation of memory; nothing that torch.compile makes of a step; no NCCL.

The module is imported before torch (see `simulated_library`).
"""

import simulated_library

simulated_library.load()

import contextlib  # noqa: E402
import functools  # noqa: E402
import itertools  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402
from unittest import mock  # noqa: E402

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  # lists what torch.cuda has, before that is replaced
from simulated_tensors import CUDA, Gpu, Tensor, replay  # noqa: E402
from torch.optim import optimizer  # noqa: E402
from torch.utils import _foreach_utils  # noqa: E402


class Stream:
    """One of the device's queues. All are one: what is queued is done at once."""

    device, device_index = CUDA, 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.priority = kwargs.get("priority", 0)

    def wait_stream(self, other: "Stream") -> None: ...

    def wait_event(self, event: "Event") -> None: ...

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _synchronize()


class Event:
    """A place in a queue, which may tell the time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._at = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._at = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _synchronize()

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end._at - self._at)


class Graph:
    """A CUDA graph: the operations between the begin and the end of its capture."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._tape: list[Any] = []

    def capture_begin(self, *pool: Any, **options: Any) -> None:
        gpu = Gpu.now()
        assert gpu.tape is None, "Two graphs are captured at once."
        gpu.tape, gpu.broken = self._tape, False

    def capture_end(self) -> None:
        gpu = Gpu.now()
        gpu.tape, broken = None, gpu.broken
        if broken:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    def replay(self) -> None:
        replay(self._tape)

    def reset(self) -> None:
        self._tape.clear()

    def pool(self) -> tuple[int, int]:
        return (0, id(self))


def _synchronize(device: Any = None) -> None:
    gpu = Gpu.now()
    if gpu.tape is not None:
        gpu.broken = True
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
    gpu.copies.finish()


class _Device(contextlib.nullcontext[None]):
    """What `torch.cuda.device` is: a context in which its device is the current one."""

    def __init__(self, device: Any = None) -> None:
        super().__init__()
        number = device if isinstance(device, int) else torch.device(device or "cuda").index
        if number not in (None, 0):
            raise RuntimeError("CUDA error: invalid device ordinal")


def _replacements(gpu: Gpu) -> dict[str, Any]:
    """What stands in for the names of torch.cuda."""
    streams = [Stream()]  # the current one

    def set_stream(stream: Stream) -> None:
        streams[0] = stream

    warn = functools.cache(warnings.warn)  # once, as torch does

    def set_sync_debug_mode(mode: int | str) -> None:
        warn("Synchronization debug mode is a prototype feature and does not yet detect all")
        gpu.sync_debug = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)  # type: ignore[arg-type]  # a number already

    memory = gpu.memory
    answers: dict[str, Callable[[], Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "ipc_collect": lambda: None,
        "set_device": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda: "simulated",
        "get_device_capability": lambda: (9, 0),
        "is_bf16_supported": lambda: True,
        "mem_get_info": lambda: (memory.free, memory.capacity),
        "memory_allocated": lambda: memory.allocated,
        "max_memory_allocated": lambda: memory.peak,
        "memory_reserved": lambda: memory.reserved,
        "reset_peak_memory_stats": memory.reset_peak,
        "empty_cache": memory.empty_cache,
        "graph_pool_handle": functools.partial(next, zip(itertools.repeat(0), itertools.count(1))),
        "current_stream": lambda: streams[0],
        "default_stream": functools.cache(Stream),
        "is_current_stream_capturing": lambda: gpu.tape is not None,
        "get_sync_debug_mode": lambda: gpu.sync_debug,
    }
    found: dict[str, Any] = {name: _whatever_is_given(fn) for name, fn in answers.items()}
    found |= {"Stream": Stream, "Event": Event, "CUDAGraph": Graph, "device": _Device}
    found |= {"synchronize": _synchronize, "set_stream": set_stream}
    found |= {"set_sync_debug_mode": set_sync_debug_mode}
    # One global generator: the numbers of the device are the CPU's.
    found |= {"default_generators": (torch.default_generator,)}
    return found


def _whatever_is_given(fn: Callable[[], Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: fn()


def _pinning(gpu: Gpu) -> Iterator[tuple[Any, str, Any]]:
    """What stands in for the page-locked memory of the host."""
    pinned = gpu.copies.pinned

    def pin_memory(x: torch.Tensor, device: Any = None) -> torch.Tensor:
        if gpu.tape is not None:
            gpu.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        found = x.clone()
        found._pinned = found.untyped_storage()  # type: ignore[attr-defined]
        pinned.add(found._pinned)  # type: ignore[attr-defined]
        return found

    def is_pinned(x: torch.Tensor, device: Any = None) -> bool:
        return hasattr(x, "_pinned")

    yield torch.Tensor, "pin_memory", pin_memory
    yield torch.Tensor, "is_pinned", is_pinned


@contextlib.contextmanager
def simulated() -> Iterator[Gpu]:
    """While the context lasts there is a CUDA device, the first and only one. Yields it."""
    gpu = Gpu()
    run = threading.Thread.run

    def within(thread: threading.Thread) -> None:  # a mode belongs to the thread that entered it
        with gpu:
            run(thread)

    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    lifts = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:

        def patch(where: Any, name: str, value: Any, **how: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, value, **how))

        for name, value in _replacements(gpu).items():
            patch(torch.cuda, name, value)
        for where, name, value in _pinning(gpu):
            patch(where, name, value)
        for name in ("_host_emptyCache", "_cuda_endAllocateToPool", "_cuda_releasePool"):
            patch(torch._C, name, lambda *given: None, create=True)
        for module in (optimizer, _foreach_utils):  # or optimizers take tensor by tensor
            known = [*module._foreach_supported_types, Tensor]
            patch(module, "_foreach_supported_types", known)
        patch(threading.Thread, "run", within)
        patch(Gpu, "current", gpu)
        # torch.tensor(..., device="cuda") makes a tensor of the CPU, and moves it.
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        # module.to("cuda") gives a module new parameters: the old ones cannot change their device.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.enter_context(gpu)
        yield gpu

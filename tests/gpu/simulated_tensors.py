"""Tensors that say they are on cuda:0, and what a GPU would make of each operation on them."""

import os
import re
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simulated_kernels as kernels
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
CAPACITY = 8 * 10**9  # bytes of the device, unless a test says otherwise
FOLDER = str(Path(__file__).parent)


class Tensor(torch.Tensor):
    """A tensor on the device: its numbers are `held` by a tensor of the CPU.

    Args:
        held: Those numbers. Views of one tensor hold views of one.
    """

    held: torch.Tensor
    lease: "Lease"

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Tensor":
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
        )
        self.held = held
        self.lease = Gpu.now().memory.lease(held)
        return self

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]  # torch's has no types
        return f"{self.held!r} on cuda:0"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy: Any = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tensor, (self.held.clone(),)  # which torch.load refuses, as without a GPU

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return self.detach().cpu().numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()  # which tells sizes, and views of one memory

    def pin_memory(self, device: Any = None) -> torch.Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.Tensor': only dense CPU tensors can be pinned")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch names a function that refuses
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # The mode is off: within torch.func, and on the thread of a backward pass.
        with Gpu.now():
            return func(*args, **(kwargs or {}))


class Memory:
    """The memory of the device: what tensors hold, and what torch keeps of what they held."""

    def __init__(self) -> None:
        self.capacity = CAPACITY
        self.allocated = self.peak = self.reserved = 0
        self._leases: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def lease(self, held: torch.Tensor) -> "Lease":
        """The share of the memory behind `held`, which ends with the last tensor that has it.

        Raises:
            torch.OutOfMemoryError: There is not so much.
        """
        storage = held.untyped_storage()
        known = self._leases.get(storage._cdata)
        if known is not None:
            return known
        size = storage.nbytes()
        if self.allocated + size > self.capacity:
            raise self.exhausted(size)
        lease = self._leases[storage._cdata] = Lease(self, size)
        return lease

    def exhausted(self, size: int) -> torch.OutOfMemoryError:
        return torch.OutOfMemoryError(
            f"CUDA out of memory. Tried to allocate {size / 2**30:.2f} GiB. GPU 0 has a total "
            f"capacity of {self.capacity / 2**30:.2f} GiB of which {self.free / 2**30:.2f} GiB is "
            "free."
        )

    @property
    def free(self) -> int:
        """What the driver has left: what torch keeps for itself is not free."""
        return self.capacity - self.reserved

    def change(self, size: int) -> None:
        with self._lock:
            self.allocated += size
            self.peak = max(self.peak, self.allocated)
            self.reserved = max(self.reserved, self.allocated)

    def reset_peak(self) -> None:
        self.peak = self.allocated

    def empty_cache(self) -> None:
        self.reserved = self.allocated


class Lease:
    """Bytes of the memory, given back when the last tensor that has them is gone."""

    def __init__(self, memory: Memory, size: int) -> None:
        self._memory, self._size = memory, size
        memory.change(size)

    def __del__(self) -> None:
        self._memory.change(-self._size)


class Copies:
    """The copies that the host did not wait for. They are done when it next waits."""

    def __init__(self) -> None:
        self.pinned: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._late: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._sources: list[tuple[torch.Tensor, int]] = []

    def to_host(self, into: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """`into`, which has the numbers `found` only once the host has waited."""
        self._late.append((into, found.clone()))
        return into.fill_(float("nan") if into.is_floating_point() else 77)

    def from_pinned(self, source: torch.Tensor) -> None:
        """Notes that the device still reads memory of the host."""
        self._sources.append((source, source._version))

    def finish(self) -> None:
        """What happens to them when the host waits.

        Raises:
            RuntimeError: The host wrote on memory that the device was still to read.
        """
        late, self._late = self._late, []
        sources, self._sources = self._sources, []
        for into, found in late:
            into.copy_(found)
        if any(source._version != version for source, version in sources):
            raise RuntimeError("Pinned memory was overwritten before its copy was done.")


class Gpu(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
    """The device. While the mode is entered, operations that name it or its tensors run on it.

    Attributes:
        waits: How often the host has waited for it, by operation and line.
        memory: Its memory.
        copies: What is on its way between it and the host.
        tape: What a graph records; None where nothing is captured.
        broken: Whether what is being captured has done what no graph can hold.
        sync_debug: What `torch.cuda.set_sync_debug_mode` was told, as a number.
    """

    current: "Gpu | None" = None
    # Whether cuBLAS repeats its results: torch asks at the first product of a process, and no more.
    repeats: bool | None = None

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.waits: Counter[str] = Counter()
        self.memory, self.copies = Memory(), Copies()
        self.tape: list[tuple[Any, Any, Any, Any]] | None = None
        self.broken = False
        self.sync_debug = 0

    @classmethod
    def now(cls) -> "Gpu":
        assert cls.current is not None, "The simulated device was left."
        return cls.current

    def wait(self, what: str) -> None:
        """The host waits for the device.

        Raises:
            RuntimeError: As torch does: a graph is being captured, or waits were made errors.
        """
        where = _caller()
        self.waits[f"{what}, {where}"] += 1
        if self.tape is not None:
            self.broken = True
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing ({what}, {where})"
            )
        if self.sync_debug == 2:
            raise RuntimeError(f"called a synchronizing CUDA operation ({what}, {where})")
        self.copies.finish()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._efficientzerotensor.default:  # zeros without memory
            func = torch.ops.aten.zeros.default
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        given = [x for x in _leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        if not any(isinstance(x, Tensor) for x in given) and (target is None or target == CPU):
            return self._host(func, args, kwargs)
        if target is not None and target.type == "cuda" and target.index not in (None, 0):
            raise RuntimeError("CUDA error: invalid device ordinal")
        self._check(func, name, args, kwargs, given)
        if target is not None:
            kwargs["device"] = CPU
        if name in ("_to_copy", "copy_"):
            return self._copied(func, name, args, kwargs, target)
        held = _mapped(_held, (args, kwargs))
        found = self._computed(func, *held)
        self._record(func, (args, kwargs), found)
        wrapped = _mapped(_wrapped, found)
        writes = any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
        if not writes:
            return wrapped
        return return_and_correct_aliasing(  # type: ignore[no-untyped-call]  # torch's has no types
            func, args, kwargs, wrapped
        )

    def _host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation of the CPU alone."""
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cpu":
            raise RuntimeError("Expected a 'cpu' device type for generator but found 'cuda'")
        return func(*args, **kwargs)

    def _copied(self, func: Any, name: str, args: Any, kwargs: Any, target: Any) -> Any:
        """A copy, on the device or between it and the host."""
        source, into = (args[0], None) if name == "_to_copy" else (args[1], args[0])
        late = kwargs.get("non_blocking") or args[2:] == (True,)
        end = into.device if into is not None else (target or source.device)
        crosses = end.type != source.device.type
        if crosses and not late:
            self.wait("copy to the host" if end == CPU else "copy from the host")
        if crosses and self.tape is not None:
            self.broken = True
            raise RuntimeError("CUDA error: a copy between host and device while capturing")
        to_device = crosses and end.type == "cuda"
        if late and to_device and source.untyped_storage() in self.copies.pinned:
            self.copies.from_pinned(source)
        held_args, held_kwargs = _mapped(_held, (args, kwargs))
        if end == CPU and into is not None:
            found = _held(source)
            if late:
                self.copies.to_host(into, found.to(into.dtype).expand(into.shape))
            else:
                into.copy_(found)
            return into
        found = self._computed(func, held_args, held_kwargs)
        if name == "_to_copy" and found is held_args[0]:
            found = found.clone()
        if end == CPU:
            return self.copies.to_host(torch.empty_like(found), found) if late else found
        self._record(func, (args, kwargs), found)
        return args[0] if into is not None else Tensor(found)

    def _check(self, func: Any, name: str, args: Any, kwargs: Any, given: list[Any]) -> None:
        """Raises, or notes, what a GPU would make of these arguments."""
        foreign = [x for x in given if not isinstance(x, Tensor)]
        if name in ("_to_copy", "copy_", "lift_fresh"):
            return
        if name in kernels.INDEXING:
            foreign = self._index(name, args, foreign)
        takes = kernels.TAKE_SCALARS | kernels.INDEXING
        scalars = torch.Tag.pointwise in func.tags or name in takes or name.startswith("_foreach_")
        if any(x.dim() or not scalars for x in foreign):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! (when checking arguments of {func})"
            )
        if name in kernels.PRODUCTS and Gpu.repeats is None:
            Gpu.repeats = os.environ.get("CUBLAS_WORKSPACE_CONFIG") in kernels.WORKSPACES
        if torch.are_deterministic_algorithms_enabled():
            self._repeats(func, name, args)
        sized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in kernels.WAITING or (sized and func._overloadname == "Tensor"):
            self.wait(name)

    def _index(self, name: str, args: Any, foreign: list[Any]) -> list[Any]:
        """Notes the waits for indices. Returns what else is not on the device."""
        indices = [i for i in args[1] if i is not None]
        apart = [i for i in indices if not isinstance(i, Tensor)]
        if isinstance(args[0], Tensor) and apart:
            self.wait("indices from the host")
            foreign = [x for x in foreign if not any(x is i for i in apart)]
        fills = len(args) > 2 and args[2].numel() == 1
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices) and not fills:
            self.wait(f"{name} by a mask")
        return foreign

    def _repeats(self, func: Any, name: str, args: Any) -> None:
        """Raises where the results of an operation do not repeat, as torch does if asked to."""
        if name in kernels.PRODUCTS and not Gpu.repeats:
            raise RuntimeError(
                "Deterministic behavior was enabled, but this operation is not deterministic "
                "because it uses CuBLAS, and CUBLAS_WORKSPACE_CONFIG was not set when this process "
                "took its first product."
            )
        indexed = name in kernels.MEDIANS and "dim" in func._overloadname
        summed = name in kernels.SUMS and args[0].is_floating_point()
        if name in kernels.NONDETERMINISTIC or indexed or summed:
            raise RuntimeError(
                f"{name}_cuda does not have a deterministic implementation, but you set "
                "'torch.use_deterministic_algorithms(True)'."
            )

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of `func` on numbers of the CPU, random ones from generators of the device."""
        generator = kwargs.get("generator")
        try:
            if generator is None:
                return func(*args, **kwargs)
            if generator.device.type != "cuda":
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            if self.tape is not None:
                self.broken = True
                raise RuntimeError(
                    "Attempt to increase offset for a CUDA generator not in capture mode."
                )
            twin = torch.Generator()
            twin.set_state(generator.get_state())
            found = func(*args, **{**kwargs, "generator": twin})
            generator.set_state(twin.get_state())
            return found
        except RuntimeError as error:
            if found := re.search(
                r"can't allocate memory: you tried to allocate (\d+)", str(error)
            ):
                raise self.memory.exhausted(int(found[1])) from error
            raise

    def _record(self, func: Any, given: Any, found: Any) -> None:
        # An operation such as t_ changes no memory, and so has no kernel.
        if self.tape is not None and torch.Tag.inplace_view not in func.tags:
            args, kwargs = _mapped(_recorded, given)
            kwargs = {n: CPU if n == "device" else x for n, x in kwargs.items()}
            self.tape.append((func, args, kwargs, _mapped(_alias, found)))


def _mapped(fn: Callable[[Any], Any], x: Any) -> Any:
    """`fn` of each leaf of what an operation takes or returns, faster than torch's own."""
    if isinstance(x, list):
        return [_mapped(fn, part) for part in x]
    if isinstance(x, tuple):
        return tuple(_mapped(fn, part) for part in x)
    if isinstance(x, dict):
        return {name: _mapped(fn, part) for name, part in x.items()}
    return fn(x)


def _leaves(x: Any) -> list[Any]:
    found: list[Any] = []
    _mapped(found.append, x)
    return found


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Tensor) else x


def _wrapped(x: Any) -> Any:
    return Tensor(x) if isinstance(x, torch.Tensor) else x


def _alias(x: Any) -> Any:
    """Another tensor on the same memory, which keeps its shape whatever becomes of the first."""
    return torch.ops.aten.alias(x) if isinstance(x, torch.Tensor) else x


def _recorded(x: Any) -> Any:
    """An argument of a kernel: memory of the device, or a number of the host as it is now."""
    if isinstance(x, Tensor):
        return _alias(x.held)
    return x.clone() if isinstance(x, torch.Tensor) else x


def _caller() -> str:
    """The innermost line of Python that is neither torch's nor of the simulated device."""
    frames = traceback.extract_stack()
    own = [f for f in frames if not _internal(f.filename)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def _internal(filename: str) -> bool:
    simulated = filename.startswith(f"{FOLDER}/simulated_")
    return "/torch/" in filename or simulated or filename.startswith("<")


def replay(tape: list[tuple[Callable[..., Any], Any, Any, Any]]) -> None:
    """Repeats what was recorded, on the memory on which it was recorded."""
    for func, args, kwargs, found in tape:
        again = _leaves(func(*args, **kwargs))
        for old, new in zip(_leaves(found), again, strict=True):
            if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)

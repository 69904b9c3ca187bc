"""Where and how numbers are computed."""

import contextlib
import ctypes
import hashlib
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bilevel_cli.commands import torchrun
from bilevel_cli.machine import memory
from bilevel_cli.nn import affine as linear

# On Linux this includes the peak of whatever launched the process; see `peak_memory_mb`.
_MAXRSS_BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True)
class Device:
    """A device, and the process-wide settings of torch that go with it.

    Args:
        name: "auto" for the first GPU or else the CPU; or a name of torch, such as "cuda:1".
        dtype: "float32" or "float64".
        matmul_precision: "highest", or "high" or "medium" for TF32 products and convolutions on a
            GPU, and with "medium" bf16 products on a CPU.
        deterministic: Whether to use only kernels whose results repeat bit for bit.
        threads: CPU threads; null for all cores.
        memory_budget: Bytes of the graphs that one outer step holds at once, such as "2 GB"; "auto"
            for half of what is free.
        episodes_chunk: Episodes that a GPU holds in memory at once; null for all.
        linear: "auto" for the faster kernels of affine layers, or "torch" for torch's choice.
        capture: "compile" to compile the outer step as a whole, "cuda_graph" to record its kernels
            and launch them together, or null.
    """

    name: str
    dtype: str
    matmul_precision: str
    deterministic: bool
    threads: int | None
    memory_budget: int | str
    episodes_chunk: int | None
    linear: str
    capture: str | None

    def __post_init__(self) -> None:
        for setting, options in (
            ("dtype", ("float32", "float64")),
            ("matmul_precision", ("highest", "high", "medium")),
            ("linear", ("auto", "torch")),
            ("capture", (None, "compile", "cuda_graph")),
        ):
            got = getattr(self, setting)
            if got not in options:
                known = ", ".join(option or "null" for option in options)
                raise ValueError(f"A device needs {setting} to be one of {known}, got {got}.")
        memory.budget_bytes(self.memory_budget)
        for name in ("threads", "episodes_chunk"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"A device needs {name} >= 1 or null, got {name}={count}.")

    def prepare(self) -> torch.device:
        """Applies the settings to this process and returns the torch device."""
        if self.deterministic:
            # cuBLAS reads it when it starts; without it torch refuses every matrix product.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if self.capture == "compile" and not any(
            map(shutil.which, ("c++", "g++", "clang++", "cl"))
        ):
            raise ValueError(
                "A device needs a C++ compiler for capture=compile, got none on the PATH. Install "
                "one, or set device.capture=null."
            )
        name = self.name
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        place = torchrun.place()
        if place.count > 1 and name.startswith("cuda:"):
            raise ValueError(
                f"Several processes need a GPU each, got device.name={name}. Use device=cuda."
            )
        if place.count > 1 and name == "cuda":
            name = f"cuda:{place.local_rank}"
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"A run needs a device that torch can use, got device.name={name}: "
                f"{str(error).splitlines()[0]}. Use device=cpu or device=auto."
            ) from error
        if self.capture == "cuda_graph" and device.type != "cuda":
            raise ValueError(
                f"A device needs a GPU for capture=cuda_graph, got device.name={name}. Use "
                "device=cuda, or device.capture=null."
            )
        torch.set_default_dtype(getattr(torch, self.dtype))
        set_precision(self.matmul_precision)
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:  # imports inductor
            torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = not self.deterministic
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if device.index is not None and place.count > 1:
            torch.cuda.set_device(device)  # which the processes exchange their gradients on
        sharing = place.local_count if device.type == "cpu" else 1
        memory.set_budget(self.memory_budget, device, sharing)
        linear.use(self.linear)
        _keep_freed_memory()
        return device


def set_precision(matmul_precision: str) -> None:
    """Sets how float32 products are computed, those of matrices and those in convolutions."""
    torch.set_float32_matmul_precision(matmul_precision)
    # On its own torch lets convolutions use TF32, whatever it was told of matrices.
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have this type, and none is followed by autograd, until the context ends."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def precision(matmul_precision: str) -> Iterator[None]:
    """Computes float32 products in another precision within."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_precision(matmul_precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """One of the independent sources of random numbers behind a seed.

    Streams are apart so that two methods with one seed see the same data, whatever each draws.

    Args:
        seed: The run's seed.
        stream: What the numbers are for.
        device: Where they are drawn.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, stream))


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of the streams behind a run's seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def peak_memory_mb(device: torch.device) -> float:
    """The most memory so far, in MB: allocated on a GPU, resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Once it has grown it is this process's own. Asking /proc at each row would take a twentieth of
    # a small outer step.
    if peak == _MAXRSS_BEFORE and (status := Path("/proc/self/status")).exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1])
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def _keep_freed_memory() -> None:
    """Makes freed memory of the CPU serve the next tensor, where the C library is glibc.

    glibc maps every block above 32 MB anew, and the kernel then zeroes each of its pages: a ReLU of
    33 MB takes 18.8 ms instead of 3.3 ms, and distillation with a ConvNet-3 a third more time. Of
    the arenas that other threads get it gives memory back whatever it was told: 16 episodes of MAML
    had 50 000 pages zeroed, so all threads share one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(threshold, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)

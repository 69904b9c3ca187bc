"""The device that a run computes on, with the settings of torch that go with it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bilevel_cli.core.host import is_host
from bilevel_cli.errors import out_of_memory
from bilevel_cli.machine import memory, place
from bilevel_cli.machine.malloc import keep_freed_memory
from bilevel_cli.machine.precision import precision, set_precision
from bilevel_cli.nn import affine, autocasting

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # which `bilevel_cli/__init__.py` sets
REPEATING = (":4096:8", ":16:8")  # its values with which cuBLAS computes the same bits again
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # which torch sets where it imports its compiler

# Why a run refuses devices of torch's, by their names. Some operations of theirs are missing, and
# some are wrong: a run that went through would prove nothing.
REASONS = {
    "mps": "Apple's GPUs have no float64, in which a run draws random numbers and solves systems.",
}
OTHERS = "This package is made for no other kind of device."


@dataclass(frozen=True)
class Device:
    """A device, and settings that hold for the whole process. An option of conf/device.

    Args:
        name: "auto" for the first NVIDIA GPU or else the CPU; or "cpu", "cuda", or one GPU of
            several, such as "cuda:1".
        dtype: "float32" or "float64".
        matmul_precision: "highest", or "high" or "medium" for TF32 products and convolutions on a
            GPU, and with "medium" bf16 products on a CPU.
        precision: "bf16-mixed" for models that compute in bfloat16 (torch's autocast), while
            parameters, gradients and losses stay float32; null for dtype throughout. For methods
            that take first derivatives.
        deterministic: Whether to use only kernels whose results repeat bit for bit.
        threads: CPU threads; null for all cores.
        memory_budget: Bytes of the graphs that one outer step holds at once, such as "2 GB"; "auto"
            for half of what is free. Steps, particles and tangents are computed in pieces that fit;
            what cannot be, such as a whole Hessian, is refused beyond it.
        episodes_chunk: Episodes that a GPU holds in memory at once; null for all.
        linear: "auto" for the kernels of affine layers that are measured to be the fastest on this
            machine; "fixed" for those that were on another one, by shapes alone, which several
            processes and deterministic=True get instead of "auto"; "torch" for torch's choice.
        capture: "compile" to compile the outer step as a whole, "cuda_graph" to record its kernels
            and launch them together, or null.
    """

    name: str
    dtype: str
    matmul_precision: str
    precision: str | None
    deterministic: bool
    threads: int | None
    memory_budget: int | str
    episodes_chunk: int | None
    linear: str
    capture: str | None

    def __post_init__(self) -> None:
        _check_name(self.name)
        for setting, options in (
            ("dtype", ("float32", "float64")),
            ("matmul_precision", ("highest", "high", "medium")),
            ("precision", (None, autocasting.MIXED)),
            ("linear", ("auto", "fixed", "torch")),
            ("capture", (None, "compile", "cuda_graph")),
        ):
            got = getattr(self, setting)
            if got not in options:
                known = ", ".join(option or "null" for option in options)
                raise ValueError(f"A device needs {setting} to be one of {known}, got {got}.")
        if self.precision is not None and self.dtype != "float32":
            raise ValueError(
                f"A device needs dtype=float32 for precision={self.precision}, got "
                f"dtype={self.dtype}, of which autocast leaves every product as it is. Use "
                "device.precision=null."
            )
        memory.budget_bytes(self.memory_budget)
        for name in ("threads", "episodes_chunk"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"A device needs {name} >= 1 or null, got {name}={count}.")

    def prepare(self) -> torch.device:
        """Applies the settings to this process, and returns the device.

        Of several processes on a machine with GPUs, each gets the GPU of its own number.

        Raises:
            ValueError: Torch cannot use the device, or the device cannot do what a setting asks.
                No setting of torch has changed then.
        """
        if self.capture == "compile" and not any(
            map(shutil.which, ("c++", "g++", "clang++", "cl"))
        ):
            raise ValueError(
                "A device needs a C++ compiler for capture=compile, got none on the PATH. Install "
                "one, or set device.capture=null."
            )
        here = place.here()
        device = self._device(here)
        torch.set_default_dtype(getattr(torch, self.dtype))
        set_precision(self.matmul_precision, self.precision)
        # Only where it changes something: the call imports inductor, which takes long.
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = not self.deterministic
        # Where a graph of second derivatives has nodes of two threads, each with a count of its
        # own, their order depends on what was computed before. So is what a sum is rounded to.
        torch.autograd.set_multithreading_enabled(not self.deterministic)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if device.type == "cuda" and here.count > 1:
            torch.cuda.set_device(device)  # where NCCL will look for the tensors it exchanges
        memory.begin(device)
        sharing = here.local_count if is_host(device) else 1
        memory.set_budget(self.memory_budget, device, sharing)
        shared = here.count > 1 or self.deterministic
        affine.use("fixed" if self.linear == "auto" and shared else self.linear)
        keep_freed_memory()
        return device

    def _device(self, here: place.Place) -> torch.device:
        """The device by its name, once a tensor was on it."""
        name = self.name
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if here.count > 1 and name.startswith("cuda:"):
            raise ValueError(
                f"Several processes need a GPU each, got device.name={name}. Use device=cuda."
            )
        if here.count > 1 and name == "cuda":
            gpus = torch.cuda.device_count()
            if 0 < gpus < here.local_count:
                raise ValueError(
                    f"Several processes need a GPU each, got {here.local_count} processes and "
                    f"GPUs for {gpus}. Use torchrun --nproc-per-node={gpus}, or device=cpu."
                )
            name = f"cuda:{here.local_rank}"
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
        if self.deterministic and not is_host(device):
            _check_products_repeat(device)
        return device


def unserved(kind: str) -> str:
    """Why nothing is computed on a kind of torch's devices, such as "mps"; empty where it is."""
    return "" if kind in ("cpu", "cuda") else REASONS.get(kind, OTHERS)


def _check_name(name: str) -> None:
    reason = "" if name == "auto" else unserved(name.partition(":")[0])
    if reason:
        raise ValueError(
            "A device needs name to be auto, cpu, cuda or one GPU such as cuda:1, got "
            f"device.name={name or 'none'}. {reason} Use device=cpu or device=auto."
        )


def _check_products_repeat(device: torch.device) -> None:
    """Raises ValueError where products on a GPU do not give the same bits again in this process."""
    config = os.environ.get(WORKSPACE)
    one = torch.ones(1, 1, device=device)
    try:
        with _algorithms(deterministic=True):
            torch.mm(one, one)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        got = f"{WORKSPACE}={config}. Unset it"
        if config in REPEATING:
            got = "a process that multiplied matrices on a GPU before. Import bilevel_cli first"
        raise ValueError(
            f"device.deterministic=true needs {WORKSPACE}={REPEATING[0]} from the first product of "
            f"a process on, got {got}, or set device.deterministic=false."
        ) from error


@contextlib.contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Sets which algorithms torch may use, until the context ends."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextlib.contextmanager
def settings_restored() -> Iterator[None]:
    """Makes torch's settings and the environment what they were, whatever `prepare` does within.

    Three things stay: what glibc's malloc was told, which nobody can ask it; the algorithms that
    cuDNN found to be fastest; and the peak of a GPU's memory, which is counted from `prepare` on.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    threaded = torch._C._is_multithreading_enabled()
    cached = CACHE in os.environ
    with (
        precision(torch.get_float32_matmul_precision(), autocasting.used()),
        memory.budget_restored(),
        affine.kernels_restored(),
    ):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.are_deterministic_algorithms_enabled() != deterministic:
                torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
            torch.autograd.set_multithreading_enabled(threaded)
            if not cached:
                os.environ.pop(CACHE, None)


def gpu_name(device: torch.device) -> str | None:
    """What the maker calls a GPU; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None

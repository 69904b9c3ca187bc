"""Which of several kernels is the fastest on this machine: measured once, and remembered.

The kernels of one case compute the same number to rounding, so a choice moves the last bits. A run
repeats bit for bit all the same:

* A choice holds for the whole run, and goes with its checkpoint to whatever machine continues it.
* It is kept in the user's cache folder, for the processor, the instructions in use and the version
  of torch. Of processes that measure at once, all take the choice that was noted first.
* Without that folder a run measures again. A case has a usual kernel, which its shapes decide, and
  another one is taken only where it is faster by more than `MARGIN`: a close call is decided alike
  however its measurements turn out. Where a kernel is faster by just this margin, the next
  measurement may say otherwise.
* Nothing is measured where device.deterministic=true, which allows no such case, and where
  processes share a run, which could not agree in the midst of an outer step. Both take the usual
  kernels.

Measuring calls the kernels with the arguments at hand. It draws no random number, makes no graph,
sets nothing of torch's, and holds one result at a time.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.records.user_cache import user_cache

MARGIN = 1.15  # how many times as long the usual kernel takes where another one replaces it
ROUNDS = range(3, 10)  # times of each kernel that are compared: at least, and less than
PATIENCE = 0.02  # seconds after which a case gets no more rounds than the least
MOST = 256  # cases of one run; where sizes change at each step, measuring would never end
# Variables that keep oneDNN and MKL from instructions which the processor has.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE")
MODEL = ("cpu family", "model", "stepping", "cache size")  # of /proc/cpuinfo

Kernel = Callable[[], Tensor]


class Choices:
    """The kernels that a run takes.

    Args:
        measuring: Whether to measure a case that is not known; else it gets its usual kernel.
        folder: Where choices are remembered; None to find the user's cache folder when it is
            needed.

    Attributes:
        taken: The name of the kernel of each case so far, by the case in words.
        seconds: What measuring took.
    """

    def __init__(self, measuring: bool, folder: Path | None = None) -> None:
        self.measuring, self.folder = measuring, folder
        self.taken: dict[str, str] = {}
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._known: dict[Hashable, str] = {}
        self._precision = torch.get_float32_matmul_precision()

    def follow(self, taken: Mapping[str, str]) -> None:
        """Goes on with the choices that a run has taken, perhaps on another machine.

        Args:
            taken: As the attribute.
        """
        with self._lock:
            self.taken |= taken
            self._known.clear()

    def fastest(
        self, case: Hashable, usual: str, kernels: Mapping[str, Kernel], to_measure: bool
    ) -> Kernel:
        """The kernel that a case takes, among those that compute it.

        Args:
            case: What decides how long they take: sizes, layouts, threads. `str` tells it in words.
            usual: The name of the one to take where nothing is measured.
            kernels: By name.
            to_measure: Whether they can be called now, for their times.
        """
        name = self._known.get(case)
        if name is None:
            if not (self.measuring and to_measure):
                return kernels[usual]
            with self._lock:  # another thread waits, and takes what this one finds
                name = self._known.get(case) or self._found(case, usual, kernels)
                self._known[case] = name
        return kernels[name]

    def _found(self, case: Hashable, usual: str, kernels: Mapping[str, Kernel]) -> str:
        words = f"{case}, matmul_precision={self._precision}"
        name = self.taken.get(words, "")
        if name not in kernels:
            name = usual if len(self._known) >= MOST else self._measured(words, usual, kernels)
        self.taken[words] = name
        return name

    def _measured(self, words: str, usual: str, kernels: Mapping[str, Kernel]) -> str:
        global _spent
        since = time.perf_counter()
        self.folder = self.folder or user_cache()
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        memory = Memory(self.folder)
        name = memory.read().get(words, "")
        if name not in kernels:
            seconds = times(kernels)
            name = decided(usual, seconds)
            least = {one: min(rounds) for one, rounds in seconds.items()}
            memory.note(words, name, {**least, "measuring": time.perf_counter() - since})
            first = memory.read().get(words, "")  # that of another process, where it was faster
            name = first if first in kernels else name
        self.seconds += time.perf_counter() - since
        _spent += time.perf_counter() - since
        return name


class Memory:
    """A file of choices in a folder, for machines like this one. A line that is damaged is no line.

    Args:
        folder: The file need not be there, nor writable: then all is measured again.
    """

    def __init__(self, folder: Path) -> None:
        self.machine = machine()
        digest = sha256(json.dumps(self.machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"kernels-{digest}.jsonl"

    def read(self) -> dict[str, str]:
        """The names of kernels by cases, in words. The first line of a case counts."""
        found: dict[str, str] = {}
        for line in self.lines():
            found.setdefault(line["case"], line["kernel"])
        return found

    def lines(self) -> list[dict[str, Any]]:
        """What was noted, in that order: `case`, `kernel` and `seconds`, by kernels."""
        lines = []
        with suppress(OSError):
            for line in self.path.read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if isinstance(entry["case"], str) and isinstance(entry["kernel"], str):
                        lines.append(entry)
        return lines

    def note(self, case: str, kernel: str, seconds: Mapping[str, float]) -> None:
        """Adds a line, whole: few bytes that are written at once behind the end of a file."""
        entry: dict[str, Any] = {"case": case, "kernel": kernel}
        entry["seconds"] = {name: float(f"{value:.3g}") for name, value in seconds.items()}
        head = "" if self.path.exists() else f"{json.dumps(self.machine)}\n"
        with suppress(OSError), self.path.open("ab", buffering=0) as file:
            file.write(f"{head}\n{json.dumps(entry)}\n".encode())  # apart from a line cut short


def times(kernels: Mapping[str, Kernel]) -> dict[str, list[float]]:
    """Seconds of each kernel, in a few rounds in which the kernels take turns.

    Args:
        kernels: By name.
    """
    for kernel in kernels.values():  # oneDNN makes a kernel for the shapes at its first call
        kernel()
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    since = time.perf_counter()
    for number in range(ROUNDS.stop - 1):
        if number >= ROUNDS.start and time.perf_counter() - since > PATIENCE:
            break
        for name, kernel in kernels.items():
            seconds[name].append(seconds_of(kernel))
    return seconds


def seconds_of(kernel: Kernel) -> float:
    """Seconds for which this thread computes: of kernels on several threads, its own share.

    A wall clock would count what other processes take of the cores, which is most of it in a sweep.
    """
    since = time.thread_time()
    kernel()
    return time.thread_time() - since


def decided(usual: str, seconds: Mapping[str, list[float]]) -> str:
    """The name of a kernel that is clearly faster than the usual one, or that of the usual one.

    Clearly means by `MARGIN`, in the best rounds of both and in most rounds.

    Args:
        usual: The name of the usual kernel.
        seconds: Of each kernel, by rounds.
    """
    least = {name: min(rounds) for name, rounds in seconds.items()}
    fastest = min(least, key=lambda name: least[name])
    pairs = list(zip(seconds[fastest], seconds[usual], strict=True))
    faster = sum(one * MARGIN < other for one, other in pairs)
    clearly = least[fastest] * MARGIN < least[usual] and faster > len(pairs) / 2
    return fastest if clearly else usual


def spent() -> float:
    """Seconds in which this process has measured kernels so far."""
    return _spent


def machine() -> dict[str, str]:
    """What the speed of a kernel depends on, besides the case."""
    limits = {name: os.environ[name] for name in LIMITS if name in os.environ}
    return {
        "processor": processor(),
        "instructions": " ".join(
            (torch.backends.cpu.get_cpu_capability(), *(f"{n}={v}" for n, v in limits.items()))
        ),
        "torch": str(torch.__version__),
    }


def processor() -> str:
    """The name of the processor and, since virtual ones share names, the numbers of its model."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if not line:  # the next core
                break
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    numbers = (f"{name} {facts[name]}" for name in MODEL if name in facts)
    return ", ".join([facts.get("model name") or platform.processor(), *numbers])


_spent = 0.0
_choices = Choices(measuring=False)


def begin(measuring: bool) -> None:
    """Forgets what was taken so far: a run begins.

    Args:
        measuring: As in `Choices`.
    """
    global _choices
    _choices = Choices(measuring)


def current() -> Choices:
    """The choices of the run that this process computes."""
    return _choices


@contextmanager
def restored() -> Iterator[None]:
    """Makes the choices what they were before, when the context ends."""
    global _choices
    before = _choices
    try:
        yield
    finally:
        _choices = before

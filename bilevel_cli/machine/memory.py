"""Memory: how much the graphs of an outer step may take, how much is free, how much was taken.

The budget of graphs is one number for the whole process. Sizes are in bytes but where a name says
MB, which is 1e6 bytes.
"""

import contextlib
import gc
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_budget: int | None = None  # once `set_budget` was called
_automatic = True  # whether the budget is half of what was free when it was set
_threads = torch.get_num_threads()
_runs = 1  # how many runs take outer steps at once, each on a thread of its own


def set_budget(setting: int | str, device: torch.device, processes: int = 1) -> None:
    """Sets the budget of this process.

    Args:
        setting: As `budget_bytes` reads it, where "auto" is half of what is free now.
        device: Where the graphs will be.
        processes: How many processes share the budget.

    Raises:
        ValueError: The setting is no size.
    """
    global _budget, _automatic, _threads
    _threads = torch.get_num_threads()
    size = budget_bytes(setting)
    _automatic = size is None
    _budget = (free(device) // 2 if size is None else size) // processes


@contextlib.contextmanager
def budget_restored() -> Iterator[None]:
    """Makes the budget what it was before, when the context ends."""
    global _budget, _automatic, _threads
    before = _budget, _automatic, _threads
    try:
        yield
    finally:
        _budget, _automatic, _threads = before


def budget(problems: int = 1) -> int:
    """Bytes that the graphs of one inner problem may hold; half of what is free if nobody set it.

    Args:
        problems: How many inner problems an outer step has. Threads of a CPU solve several at once,
            and share the budget.
    """
    if _budget is None:
        set_budget("auto", torch.device("cpu"))
    assert _budget is not None
    return _budget // (_runs if _runs > 1 else min(problems, _threads))


def limit(device: torch.device, problems: int = 1) -> int:
    """Bytes that one inner problem may take which cannot be computed in pieces.

    The budget if somebody set it; else all that is free, since half of it bounds graphs alone.

    Args:
        device: Where the problem is.
        problems: How many inner problems are solved at once.
    """
    whole = _budget if budgeted() else free(device)
    assert whole is not None
    return whole // (problems * _runs)


def budgeted() -> bool:
    """Whether somebody has set a budget, which then bounds more than graphs."""
    return not _automatic and _budget is not None


@contextlib.contextmanager
def shared(runs: int) -> Iterator[None]:
    """Divides the budget, within the context, among runs that have a thread each."""
    global _runs
    _runs = runs
    try:
        yield
    finally:
        _runs = 1


def budget_bytes(setting: int | str) -> int | None:
    """A budget in bytes; None for "auto".

    Args:
        setting: "auto", a number of bytes, or a number and a unit, such as "500 MB".

    Raises:
        ValueError: It is something else, or less than a byte.
    """
    if setting == "auto":
        return None
    units = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    found = re.fullmatch(r"(\d+\.?\d*) *([kMGT]?B)?", str(setting))
    size = int(float(found[1]) * units[found[2] or ""]) if found else 0
    if size < 1:
        raise ValueError(
            'A device needs memory_budget to be "auto", or bytes such as "500 MB" or "2 GB", got '
            f"{setting!r}. Set device.memory_budget."
        )
    return size


def begin(device: torch.device) -> None:
    """Begins a run on `device`: frees what earlier runs left there, and counts the peak from here.

    A CPU's peak stays that of the process: with the memory that malloc keeps, its resident memory
    is that of the largest run so far.
    """
    if device.type != "cuda":
        return
    if torch.cuda.memory_allocated(device):
        gc.collect()  # an earlier run holds itself in a circle, and one that failed its traceback
    torch.cuda.reset_peak_memory_stats(device)


def free(device: torch.device) -> int:
    """Bytes that this process could still take on `device`, in a container within its limit."""
    if device.type == "cuda":
        # The driver does not know that torch keeps memory that no tensor has any more.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + max(kept, 0)
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # macOS, which does not say
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    available = 1024 * _entries(meminfo)["MemAvailable:"]
    # A container's limit, by either version of control groups. What it caches of files counts as
    # used, and can be dropped.
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        group = Path("/sys/fs/cgroup")
        try:
            left = int((group / limit).read_text()) - int((group / usage).read_text())
            left += _entries((group / limit).with_name("memory.stat"))[cache]
        except (OSError, ValueError, KeyError):  # another version, or the limit is "max"
            continue
        available = min(available, left)
    return max(min(available, _addressable()), 0)


def _addressable() -> int:
    """Bytes that `ulimit -v` leaves to this process."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY:
        return sys.maxsize
    return allowed - _pages() * resource.getpagesize()


def _pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0])


def _entries(path: Path) -> dict[str, int]:
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}


# Linux lets a process begin with the peak of the process that launched it. While the figure is
# still the one read here, it may be the launcher's.
_MAXRSS_BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_memory_mb(device: torch.device) -> float:
    """The most memory so far, in MB.

    On a GPU, what torch allocated since the run began. On a CPU, what was resident in RAM since the
    process began: a run of a sweep tells no less than those before it in the same process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Once the figure has grown, it is this process's own. Until then /proc knows the peak; asking
    # it for each row would take a twentieth of a small outer step.
    if peak == _MAXRSS_BEFORE and (status := Path("/proc/self/status")).exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1])
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6

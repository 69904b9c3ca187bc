"""The memory that graphs may take, of the process as a whole."""

import contextlib
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_budget: int | None = None  # bytes, once `set_budget` was called
_threads = torch.get_num_threads()
_runs = 1  # that take outer steps at once, each on a thread of its own


def set_budget(setting: int | str, device: torch.device, processes: int = 1) -> None:
    """Sets the budget of this process.

    Args:
        setting: As `budget_bytes` reads it, where "auto" is half of what is free now.
        device: Where the graphs will be.
        processes: Those that share it.
    """
    global _budget, _threads
    _threads = torch.get_num_threads()
    size = budget_bytes(setting)
    _budget = (free(device) // 2 if size is None else size) // processes


def budget(problems: int = 1) -> int:
    """Bytes that the graphs of one inner problem may hold; half of what is free if nobody set it.

    Args:
        problems: Inner problems of an outer step, of which threads of a CPU solve several at once.
    """
    if _budget is None:
        set_budget("auto", torch.device("cpu"))
    assert _budget is not None
    return _budget // (_runs if _runs > 1 else min(problems, _threads))


@contextlib.contextmanager
def shared(runs: int) -> Iterator[None]:
    """Divides the budget among runs, each of which has one thread to itself."""
    global _runs
    _runs = runs
    try:
        yield
    finally:
        _runs = 1


def budget_bytes(setting: int | str) -> int | None:
    """A budget in bytes; None for "auto".

    Raises:
        ValueError: It is neither that nor a number of bytes.
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


def free(device: torch.device) -> int:
    """Bytes that this process could still take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # macOS, which does not say
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    available = 1024 * _entries(meminfo)["MemAvailable:"]
    # A container's limit, in the two versions of control groups. Its cache of files can be dropped.
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
    return max(available, 0)


def _entries(path: Path) -> dict[str, int]:
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}


# On Linux this includes the peak of whatever launched the process; see `peak_memory_mb`.
_MAXRSS_BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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

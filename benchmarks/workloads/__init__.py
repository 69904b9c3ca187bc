"""Problems to compare on: every file lists its cases by name, for a size and a device.

A size is "full", "quick" (minutes for all) or "tiny" (for tests).
"""

import importlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.case import Case

Cases = dict[str, Callable[[], Case]]


def cases(size: str, device: list[str]) -> Cases:
    """All cases, unbuilt.

    Args:
        size: "full", "quick" or "tiny".
        device: Overrides of `bilevel-run` for the device.
    """
    found: Cases = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        found |= importlib.import_module(f"benchmarks.workloads.{path.stem}").cases(size, device)
    return found

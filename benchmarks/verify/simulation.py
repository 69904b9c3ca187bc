"""The simulated device of tests/gpu, for a dry run."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What the tests share, and the simulated device with the check of one pair.
FOLDERS = [str(ROOT / "tests" / "gpu"), str(ROOT / "tests" / "helpers")]
DEVICE = "simulated_cuda"  # the module that makes it
LIBRARY = "simulated_library"  # what it compiles, without importing torch
PLUGIN = "simulated_plugin"  # of pytest


def let_tests_be_imported() -> None:
    """Has Python find the modules of the tests."""
    sys.path[:0] = [folder for folder in FOLDERS if folder not in sys.path]


@contextlib.contextmanager
def entered(simulated: bool) -> Iterator[None]:
    """Lets modules of the tests be imported, and within, has "cuda" be the simulated device.

    Args:
        simulated: Whether to simulate. Torch must not be imported before then.
    """
    let_tests_be_imported()
    if not simulated:
        yield
        return
    with importlib.import_module(DEVICE).simulated():
        yield


def environment() -> dict[str, str]:
    """The environment of a process that imports modules of the tests."""
    before = [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *FOLDERS, *before])}

"""Waits of the host for a GPU, made errors."""

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    """Makes every wait of the host for the device a RuntimeError, until the context ends."""
    with warnings.catch_warnings():
        # torch says so once in a process, and the tests take warnings for errors.
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""Settings of glibc's malloc."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Makes freed memory of the CPU serve the next tensor, where the C library is glibc.

    By default glibc maps every block above 32 MB anew, and the kernel then zeroes each of its
    pages: a ReLU of 33 MB takes 18.8 ms instead of 3.3 ms, and distillation with a ConvNet-3 a
    third more time. glibc also gives each thread an arena of its own, whose memory it returns to
    the system whatever the thresholds are: 16 episodes of MAML had 50 000 pages zeroed. So all
    threads share one arena.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(threshold, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)

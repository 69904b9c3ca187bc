"""Attention that can be differentiated to any order.

Torch chooses among several kernels for attention, and all but one lack some derivative.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class _Attention:
    """A context in which torch takes the one kernel that has derivatives of every order and mode.

    Torch keeps its choice for the whole process, and several threads may be within at once. The
    choice is made when the first thread enters, and taken back when the last one leaves.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: list[bool] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [enabled() for enabled, _ in _KERNELS]
                self._choose([False] * len(_FUSED) + [True])
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._choose(self._before)

    def _choose(self, wanted: list[bool]) -> None:
        for (_, enable), want in zip(_KERNELS, wanted, strict=True):
            enable(want)


# Of each kernel, the function that tells whether torch may choose it, and the one that sets this.
# The first is the shortcut of encoder layers in eval mode, which has no derivative at all.
_FUSED: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
]
_KERNELS = [*_FUSED, (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp)]
_attention = _Attention()


def exact_attention() -> AbstractContextManager[Any]:
    """A context within which attention has derivatives of every order."""
    if torch.compiler.is_compiling():  # torch.compile can look into torch's own context only
        return sdpa_kernel(SDPBackend.MATH)
    return _attention

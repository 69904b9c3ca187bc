"""Attention that can be differentiated to any order."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class _Attention:
    """The kernel of torch's attention with derivatives of every order and mode, and no other.

    torch keeps the choice for the whole process: it is made when a first thread enters, and taken
    back when the last one leaves.
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


# Whether a kernel may be chosen, and the function that says so. The first one is the shortcut of
# encoder layers in eval mode, without any derivative.
_FUSED: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
]
_KERNELS = [*_FUSED, (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp)]
_attention = _Attention()


def exact_attention() -> AbstractContextManager[Any]:
    """Attention is computed within so that it can be differentiated as often as one likes."""
    if torch.compiler.is_compiling():  # which knows torch's own context alone
        return sdpa_kernel(SDPBackend.MATH)
    return _attention

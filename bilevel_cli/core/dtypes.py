"""The type of new tensors."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have this type, and none is followed by autograd, until the context ends."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)

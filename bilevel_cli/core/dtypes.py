"""The type that new tensors of floating numbers have."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have type `dtype`, and autograd is off, until the context ends.

    The type is a setting of the whole process: other threads find it, too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)

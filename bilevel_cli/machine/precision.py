"""How float32 products are computed."""

import contextlib
from collections.abc import Iterator

import torch


def set_precision(matmul_precision: str) -> None:
    """Sets how float32 products are computed, those of matrices and those in convolutions."""
    torch.set_float32_matmul_precision(matmul_precision)
    # On its own torch lets convolutions use TF32, whatever it was told of matrices.
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"


@contextlib.contextmanager
def precision(matmul_precision: str) -> Iterator[None]:
    """Computes float32 products in another precision within."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_precision(matmul_precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]

"""How exactly numbers are computed: products of float32, and models as a whole."""

import contextlib
from collections.abc import Iterator

import torch

from bilevel_cli.nn import autocasting


def set_precision(matmul_precision: str, mixed: str | None) -> None:
    """Sets how float32 products are computed, in matrix products and in convolutions alike.

    Args:
        matmul_precision: "highest" for float32 throughout; "high" or "medium" for TF32 on a GPU;
            "medium" for bf16 on a CPU.
        mixed: Of models, as in `autocasting.use`.
    """
    torch.set_float32_matmul_precision(matmul_precision)
    # By default torch lets convolutions use TF32, whatever it was told of matrices.
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"
    autocasting.use(mixed)


@contextlib.contextmanager
def precision(matmul_precision: str, mixed: str | None = None) -> Iterator[None]:
    """Sets the precision as `set_precision` does, until the context ends."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with autocasting.restored():
        set_precision(matmul_precision, mixed)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

"""Classes under the names that the user gave them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def numbered(values: NDArray, who: str, what: str) -> tuple[Tensor, list[str]]:  # type: ignore[type-arg]
    """Labels 0, 1, ... in the order of the sorted values, and the values as names.

    Args:
        values: Whole numbers, booleans or strings, of shape [n].
        who: The class that needs them, for messages.
        what: Where they come from, for messages.

    Raises:
        ValueError: There are not two examples of each of two classes.
    """
    names, labels, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"{who} needs two classes at least, got {len(names)} in {what}.")
    rarest = counts.argmin()
    if counts[rarest] < 2:
        row = int((labels == rarest).argmax())
        raise ValueError(
            f"{who} needs two examples of every class, got one of {str(names[rarest])!r}, in row "
            f"{row} of {what}. Correct it, merge the class, or leave the row out."
        )
    return torch.from_numpy(labels).long(), [str(name) for name in names]

"""The tables that scikit-learn ships, read without importing it, which takes a second."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def table(name: str, delimiter: str | None = None, header: int = 0) -> Tensor:
    """A table of numbers, float64, of shape [rows, columns].

    Args:
        name: Of the file, `.csv` or `.csv.gz`.
        delimiter: Between columns; None for blanks.
        header: Lines to leave out at the top.
    """
    package = find_spec("sklearn")  # finds it and does not run it
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / name
    return torch.from_numpy(np.loadtxt(path, delimiter=delimiter, skiprows=header, ndmin=2))

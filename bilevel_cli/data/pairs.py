"""The user's own pairs of two views, from an npz file."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel_cli.data.base import Labelled
from bilevel_cli.data.reading.npz import read_npz
from bilevel_cli.data.two_views import TwoViews


class Pairs(TwoViews):
    """Two arrays of an npz file, row i of one belonging to row i of the other.

    Such as images, or the features that a network makes of them, and the embeddings of their
    captions. Entries are floating; or bytes (uint8), which are divided by 255; or whole numbers of
    another type, which are taken as they are. A distilled set of pairs is such a file. Pairs are
    numbered from 0. Pickled objects are refused unread.

    Args:
        path: Of the file.
        x: Name of the array of the first view, of shape [n, ...].
        y: Name of that of the second, likewise.
        train: Number of training pairs, or null.
        validation: Number of validation pairs, or null.
        test: Number of test pairs, or null. Nulls share what the others leave, as 60 : 20 : 20.
        max_megabytes: Largest size of both arrays together, unpacked.
    """

    def __init__(
        self,
        path: str | None,
        x: str,
        y: str,
        train: int | None,
        validation: int | None,
        test: int | None,
        max_megabytes: float,
    ) -> None:
        super().__init__(train, validation, test)
        self.path, self.x, self.y, self.max_megabytes = path, x, y, max_megabytes

    def read(self) -> tuple[Labelled, None]:
        arrays = read_npz(self.path, (self.x, self.y), "Pairs", self.max_megabytes)
        x, y = (self._view(name, arrays[name]) for name in (self.x, self.y))
        if len(x) != len(y):
            raise self._bad(self.y, f"as many rows as in {self.x!r}", f"{len(y)} and {len(x)}")
        return Labelled(x, y, torch.arange(len(x))), None

    def _view(self, name: str, array: NDArray[Any]) -> Tensor:
        if array.dtype.kind not in "fiu" or array.ndim < 2 or not array.size:
            got = f"{array.dtype} of shape {list(array.shape)}"
            raise self._bad(name, "numbers of shape [n, ...]", got)
        view = torch.from_numpy(array.astype(np.float64)).to(torch.get_default_dtype())
        if not view.isfinite().all():
            raise self._bad(name, "finite numbers", "others")
        return view.div_(255) if array.dtype == np.uint8 else view

    def _bad(self, name: str, needs: str, got: str) -> ValueError:
        return ValueError(
            f"Pairs needs {needs} in {name!r} of {self.path}, got {got}. Convert the array."
        )

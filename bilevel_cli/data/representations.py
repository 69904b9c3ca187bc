"""The user's own examples in several representations, from an npz file."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel_cli.data.reading.npz import read_npz
from bilevel_cli.data.reading.numbering import numbered

WHO = "Representations"


class Representations:
    """Arrays of an npz file that hold the same examples, such as the features of several networks.

    Entries are floating or whole numbers; of an array with more than two dimensions, all but the
    first are made one. Labels may be unknown. Examples are numbered from 0. Pickled objects are
    refused unread.

    Args:
        path: Of the file.
        x: Names of the arrays, each of shape [n, ...].
        y: Name of the labels, whole numbers or texts of shape [n]; null where nobody knows them.
        max_megabytes: Largest size of all arrays together, unpacked.
    """

    def __init__(self, path: str | None, x: list[str], y: str | None, max_megabytes: float) -> None:
        if isinstance(x, str) or not len(x):
            raise ValueError(f"{WHO} needs the names of arrays, got x={x}. Set data.x=[a,b].")
        self.path, self.x, self.y, self.max_megabytes = path, tuple(x), y, max_megabytes

    def spaces(self) -> list[Tensor]:
        """The examples in each representation, floating, of shapes [n, features].

        Raises:
            ValueError: The file or an array is absent, or not what it should be.
        """
        found = []
        for name in self.x:
            array = self._arrays[name]
            if array.dtype.kind not in "fiu" or array.ndim < 2 or not array.size:
                got = f"{array.dtype} of shape {list(array.shape)}"
                raise self._bad(name, "numbers of shape [n, ...]", got)
            if len(array) != len(self._arrays[self.x[0]]):
                sizes = f"{len(array)} and {len(self._arrays[self.x[0]])}"
                raise self._bad(name, f"as many rows as in {self.x[0]!r}", sizes)
            flat = array.reshape(len(array), -1).astype(np.float64)
            if not np.isfinite(flat).all():
                raise self._bad(name, "finite numbers", "others")
            found.append(torch.from_numpy(flat).to(torch.get_default_dtype()))
        return found

    @property
    def labels(self) -> Tensor | None:
        """Labels from 0 on, int64, of shape [n]; None where nobody knows them."""
        return None if self.y is None else self._numbered[0]

    @property
    def class_names(self) -> list[str]:
        """What people call the classes; empty where nobody knows the labels."""
        return [] if self.y is None else self._numbered[1]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        names = self.x if self.y is None else (*self.x, self.y)
        return read_npz(self.path, names, WHO, self.max_megabytes)

    @cached_property
    def _numbered(self) -> tuple[Tensor, list[str]]:
        assert self.y is not None
        y, count = self._arrays[self.y], len(self._arrays[self.x[0]])
        if y.dtype.kind not in "biuU" or y.shape != (count,):
            got = f"{y.dtype} of shape {list(y.shape)}"
            raise self._bad(self.y, f"whole numbers or texts of shape [{count}]", got)
        return numbered(y, WHO, f"{self.y!r} of {self.path}")

    def _bad(self, name: str, needs: str, got: str) -> ValueError:
        return ValueError(
            f"{WHO} needs {needs} in {name!r} of {self.path}, got {got}. Convert the array."
        )

"""The user's own arrays, from an npz file."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from bilevel_cli.data.base import Labelled, Pixels
from bilevel_cli.data.reading.npz import read_npz
from bilevel_cli.data.reading.numbering import numbered


class _Read(NamedTuple):
    pool: Labelled
    class_names: list[str]


class Arrays(Pixels):
    """Two arrays of an npz file: inputs of shape [n, ...] and labels [n].

    Inputs are floating; or bytes (uint8), which are divided by 255; or whole numbers of another
    type, which a model gets as they are: tokens. Labels are whole numbers or texts, the classes
    their sorted values. Examples are numbered from 0. Pickled objects are refused unread.

    Args:
        path: Of the file.
        x: Name of the inputs, of shape [n, features] or [n, channels, height, width].
        y: Name of the labels.
        channels_last: Whether images have shape [n, height, width, channels] instead.
        train: Number of training examples, or null.
        validation: Number of validation examples, or null.
        test: Number of test examples, or null. Nulls share what the others leave, as 60 : 20 : 20.
        standardize: As `Pixels`.
        max_megabytes: Largest size of the two arrays, unpacked.
    """

    def __init__(
        self,
        path: str | None,
        x: str,
        y: str,
        channels_last: bool,
        train: int | None,
        validation: int | None,
        test: int | None,
        standardize: bool,
        max_megabytes: float,
    ) -> None:
        super().__init__(train, validation, test, standardize)
        self.path, self.x, self.y, self.channels_last = path, x, y, channels_last
        self.max_megabytes = max_megabytes

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known once the file is read
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        return self._read.class_names

    def pixels(self) -> tuple[Labelled, None]:
        return self._read.pool, None

    @cached_property
    def _read(self) -> _Read:
        members = read_npz(self.path, (self.x, self.y), "Arrays", self.max_megabytes)
        x, y = members[self.x], members[self.y]
        if x.dtype.kind not in "fiu" or x.dtype == np.uint64:
            raise self._bad(self.x, "floating or whole numbers", f"{x.dtype}")
        if y.dtype.kind not in "biuU":
            raise self._bad(self.y, "whole numbers or texts", f"{y.dtype}")
        if x.ndim < 2 or not x.size or y.shape != x.shape[:1]:
            raise self._bad(
                self.y, f"shape [n] beside {self.x!r} of shape [n, ...]", f"{y.shape} and {x.shape}"
            )
        if self.channels_last:
            if x.ndim != 4:
                raise self._bad(
                    self.x, "shape [n, height, width, channels]", f"{x.shape}", "data.channels_last"
                )
            x = x.transpose(0, 3, 1, 2)
        if x.dtype.kind == "f" and not (finite := np.isfinite(x)).all():
            place = np.unravel_index(finite.argmin(), x.shape)
            raise self._bad(self.x, "finite numbers", f"{x[place]} at {[*map(int, place)]}")
        labels, names = numbered(y, "Arrays", f"{self.y!r} of {self.path}")
        if x.dtype.kind == "f":
            plain = np.dtype(np.float64) if x.dtype.itemsize > 8 else x.dtype.newbyteorder("=")
        else:
            plain = x.dtype if x.dtype == np.uint8 else np.dtype(np.int64)
        native = x.astype(plain, order="C")  # a copy, which torch may own
        return _Read(Labelled(torch.from_numpy(native), labels, torch.arange(len(x))), names)

    def _bad(self, name: str, needs: str, got: str, setting: str = "") -> ValueError:
        return ValueError(
            f"Arrays needs {needs} in {name!r} of {self.path}, got {got}. "
            f"{f'Change {setting} or the' if setting else 'Convert the'} array."
        )

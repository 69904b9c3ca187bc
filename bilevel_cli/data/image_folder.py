"""The user's own images, in a folder for each class."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bilevel_cli.data.base import SHARES, Classes, ClassSplits, Labelled, Pixels, shared_out
from bilevel_cli.data.reading import files, images


class ImageFolder(Pixels, Classes):
    """Images `root/<class>/*.png` or `*.jpg`, classes and images in the order of their names.

    As examples, `x` has shape [n, channels, size, size]. Image i in that order has the number i,
    and `paths[i]` is its file. As classes, for episodes, each class has as many images as the
    smallest one, and the classes are shuffled by `split_seed` and divided as 60 : 20 : 20.

    Args:
        root: The folder of the classes.
        size: Side in pixels to which all images are resized, whatever their shape.
        channels: 1: grey; 3: colour.
        train: Number of training examples, or null.
        validation: Number of validation examples, or null.
        test: Number of test examples, or null. Nulls share what the others leave, as 60 : 20 : 20.
        split_seed: Of the shuffle of classes; not the run's seed.
        standardize: As `Pixels`.
        max_megabytes: Largest size of all images, at a byte for each channel of a pixel.
    """

    def __init__(
        self,
        root: str | None,
        size: int,
        channels: int,
        train: int | None,
        validation: int | None,
        test: int | None,
        split_seed: int,
        standardize: bool,
        max_megabytes: float,
    ) -> None:
        super().__init__(train, validation, test, standardize)
        images.check_sizes("ImageFolder", size, channels)
        self.root, self.size, self.channels = root, size, channels
        self.split_seed, self.max_megabytes = split_seed, max_megabytes

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known once the folder is read
        return len(self._found)

    @property
    def class_names(self) -> list[str]:
        return list(self._found)

    @property
    def paths(self) -> list[Path]:
        """The file of each example, by its number."""
        return [path for found in self._found.values() for path in found]

    def pixels(self) -> tuple[Labelled, None]:
        counts = torch.tensor([len(found) for found in self._found.values()])
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        return Labelled(self._images, labels, torch.arange(len(labels))), None

    def classes(self) -> ClassSplits:
        pool, _ = self.pixels()
        least = int(pool.y.bincount().min())
        by_class = torch.stack([pool.x[pool.y == c][:least] for c in range(self.num_classes)])
        generator = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(self.num_classes, generator=generator)
        sizes = shared_out([None] * 3, self.num_classes, SHARES)
        if sum(sizes) > self.num_classes:
            raise ValueError(
                f"ImageFolder needs three classes to divide among training, validation and test, "
                f"got {self.num_classes} in {self.root}. Add classes."
            )
        return ClassSplits(*(by_class[rows] for rows in torch.split(order, sizes)))

    @property
    def split_statement(self) -> str:
        sizes = shared_out([None] * 3, self.num_classes, SHARES)
        least = min(map(len, self._found.values()))
        return (
            f"{sizes[0]} for training, {sizes[1]} for validation, {sizes[2]} for test, shuffled by "
            f"split_seed={self.split_seed}; {least} images of each"
        )

    @cached_property
    def _found(self) -> dict[str, list[Path]]:
        return images.by_class(files.own(self.root, "ImageFolder", "data.root"), "ImageFolder")

    @cached_property
    def _images(self) -> Tensor:
        """All images, uint8, of shape [n, channels, size, size]."""
        shape = (self.channels, self.size, self.size)
        if len(self.paths) * np.prod(shape) > self.max_megabytes * 1e6:
            raise files.too_large("ImageFolder", str(self.root), self.max_megabytes)
        decoded = np.empty((len(self.paths), *shape), np.uint8)
        for image, path in zip(decoded, self.paths, strict=True):
            image[:] = images.decoded(path, self.size, self.channels, "ImageFolder")
        return torch.from_numpy(decoded)

"""The user's own images, in a folder for each class."""

from collections import defaultdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bilevel_cli.data.base import SHARES, Classes, ClassSplits, Labelled, Pixels, shared_out
from bilevel_cli.data.reading import files, images, listing
from bilevel_cli.records.plain import plain


class ImageFolder(Pixels, Classes):
    """Images in a folder for each class, `root/<class>/`, or in folders below that.

    Classes and images are in the order of their names. PNG, JPEG, WebP, BMP, TIFF, GIF and PPM are
    read, and AVIF where Pillow can. `statement` says what was passed over.

    As examples, `x` has shape [n, channels, size, size]. Image i in that order has the number i,
    and `paths[i]` is its file. As classes, for episodes, each class has as many images as the
    smallest one, and the classes are shuffled by `split_seed` and divided as 60 : 20 : 20.

    Args:
        root: The folder of the classes.
        size: Side in pixels to which all images are resized, whatever their shape.
        channels: 1: grey; 3: colour.
        background: The colour behind what is transparent in an image, as Pillow writes colours.
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
        background: str,
        train: int | None,
        validation: int | None,
        test: int | None,
        split_seed: int,
        standardize: bool,
        max_megabytes: float,
    ) -> None:
        super().__init__(train, validation, test, standardize)
        images.check_sizes("ImageFolder", size, channels)
        images.check_background("ImageFolder", background)
        self.root, self.size, self.channels, self.background = root, size, channels, background
        self.split_seed, self.max_megabytes = split_seed, max_megabytes

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known once the folder is read
        return len(self._found.classes)

    @property
    def class_names(self) -> list[str]:
        return list(self._found.classes)

    @property
    def paths(self) -> list[Path]:
        """The file of each example, by its number."""
        return self._found.images

    def pixels(self) -> tuple[Labelled, None]:
        counts = torch.tensor([len(found) for found in self._found.classes.values()])
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
        least = min(map(len, self._found.classes.values()))
        return (
            f"{sizes[0]} for training, {sizes[1]} for validation, {sizes[2]} for test, shuffled by "
            f"split_seed={self.split_seed}; {least} images of each"
        )

    @property
    def statement(self) -> str:
        """Of what is not as it would be in a plain folder of PNG and JPEG files."""
        found = self._found
        told = [listing.counted(found.nested, found, "in folders below")]
        told += [listing.counted(self._noted[note], found, note) for note in sorted(self._noted)]
        told = list(filter(None, [*told, found.passed_over]))
        if not told:
            return ""
        name = plain(found.folder.resolve().name, listing.LONGEST)
        return f"{name}: {len(found.images)} images; {'; '.join(told)}."

    @cached_property
    def _found(self) -> listing.Listing:
        return listing.by_class(files.own(self.root, "ImageFolder", "data.root"), "ImageFolder")

    @property
    def _images(self) -> Tensor:
        return self._read[0]

    @property
    def _noted(self) -> dict[str, list[Path]]:
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Tensor, dict[str, list[Path]]]:
        """All images, uint8, of shape [n, channels, size, size]; and the files of each note."""
        shape = (self.channels, self.size, self.size)
        if len(self.paths) * np.prod(shape) > self.max_megabytes * 1e6:
            raise files.too_large("ImageFolder", str(self.root), self.max_megabytes)
        pixels, noted = np.empty((len(self.paths), *shape), np.uint8), defaultdict(list)
        for image, path in zip(pixels, self.paths, strict=True):
            image[:], notes = images.decoded(
                path, self.size, self.channels, "ImageFolder", self.background
            )
            for note in notes:
                noted[note].append(path)
        return torch.from_numpy(pixels), noted

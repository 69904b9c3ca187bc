"""Images by class in published parts, for episodes: miniImageNet, tieredImageNet, CIFAR-FS."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel_cli.data.base import Classes, ClassSplits
from bilevel_cli.data.reading import files, images, listing
from bilevel_cli.data.reading.npz import read_npz

PARTS = ("train", "val", "test")


class ClassFolders(Classes):
    """Classes of images in three parts that are disjoint, as published.

    They are either folders of images, `<root>/<name>/{train,val,test}/<class>/`, of the kinds that
    `ImageFolder` reads, transparent ones on white, which are resized and kept in the cache; or
    arrays, `<root>/<name>/{train,val,test}.npz`, with `images` [n, size, size, channels], uint8,
    and `labels` [n]. Pickles are never read. All classes of a part get as many images as its
    smallest class has, the first ones.

    miniImageNet: 64, 16 and 20 classes of 600 images (Ravi, Larochelle, 2017,
    https://openreview.net/forum?id=rJY0-Kcll). tieredImageNet: 351, 97 and 160 classes (Ren et al.,
    2018, arXiv:1803.00676). CIFAR-FS: 64, 16 and 20 classes of 600 images of 32x32 (Bertinetto et
    al., 2019, arXiv:1805.08136). All images at these sizes take 1.3 GB, 16.5 GB and 0.2 GB.

    Args:
        name: Of the data set, and of its folder below `root`.
        root: The folder above that of the data set, or itself; null for the cache.
        size: Side of an image in pixels.
        channels: 1: grey; 3: colour.
        images_per_class: Images of a class at most; null for all.
        train: Number of training classes that there must be; null: any.
        validation: Number of validation classes, likewise.
        test: Number of test classes, likewise.
        max_megabytes: Largest size of all images of a part.
    """

    def __init__(
        self,
        name: str,
        root: str | None,
        size: int,
        channels: int,
        images_per_class: int | None,
        train: int | None,
        validation: int | None,
        test: int | None,
        max_megabytes: float,
    ) -> None:
        images.check_sizes(name, size, channels)
        if images_per_class is not None and images_per_class < 2:
            raise ValueError(
                f"{name} needs images_per_class >= 2, for a shot and a query, got "
                f"{images_per_class}. Set data.images_per_class."
            )
        self.name, self.root, self.size, self.channels = name, root, size, channels
        self.images_per_class, self.max_megabytes = images_per_class, max_megabytes
        self.counts = train, validation, test
        self._passed_over: dict[str, str] = {}  # by part

    def classes(self) -> ClassSplits:
        return self._parts

    @property
    def split_statement(self) -> str:
        sizes = [f"{len(part)} of {part.shape[1]} images" for part in self._parts]
        return (
            f"{self.name} at {self.size}x{self.size}, {sizes[0]} for training, {sizes[1]} for "
            f"validation, {sizes[2]} for test, as the files divide them"
        )

    @property
    def statement(self) -> str:
        told = [f"{part}: {what}." for part, what in self._passed_over.items() if what]
        return " ".join([f"{self.name},", *told]) if told else ""

    @cached_property
    def _parts(self) -> ClassSplits:
        base = files.cache_folder() if self.root is None else Path(self.root).expanduser()
        places = [base / self.name] + [base] * (self.root is not None)
        folder = next((p for p in places if (p / "train").exists() or _npz(p).exists()), None)
        if folder is None:
            raise ValueError(
                f"{self.name} needs train, val and test, folders of images by class or .npz files, "
                f"found in none of {', '.join(map(str, places))}. Set data.root=... to the folder "
                f"above {self.name}; docs/data.md says how they are laid out."
            )
        parts = []
        for part, count in zip(PARTS, self.counts, strict=True):
            path = _npz(folder, part)
            if path.exists():
                found = self._from_arrays(files.inside(path, base, self.name))
            else:
                found = self._from_images(files.inside(folder / part, base, self.name))
            if count not in (None, len(found)):
                raise ValueError(
                    f"{self.name} needs {count} classes in {folder / part}, got {len(found)}. "
                    "Complete them, or set data.train, data.validation and data.test to null."
                )
            parts.append(torch.from_numpy(found))
        return ClassSplits(*parts)

    def _from_arrays(self, path: Path) -> NDArray[np.uint8]:
        arrays = read_npz(str(path), ("images", "labels"), self.name, self.max_megabytes)
        pixels, labels = arrays["images"], arrays["labels"]
        shape = (self.size, self.size, self.channels)
        if pixels.dtype != np.uint8 or pixels.shape != (*labels.shape, *shape) or labels.ndim != 1:
            raise ValueError(
                f"{self.name} needs images [n, {', '.join(map(str, shape))}] of uint8 and labels "
                f"[n] in {path}, got {pixels.dtype} {list(pixels.shape)} and "
                f"{list(labels.shape)}. Set data.size or data.channels, or write the file anew."
            )
        rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        count = self._count([len(members) for members in rows], path)
        return np.stack([pixels[members[:count]] for members in rows]).transpose(0, 1, 4, 2, 3)

    def _from_images(self, folder: Path) -> NDArray[np.uint8]:
        read = listing.by_class(folder, self.name)
        self._passed_over[folder.name] = read.passed_over
        found = read.classes
        count = self._count([len(paths) for paths in found.values()], folder)
        paths = [path for paths in found.values() for path in paths[:count]]
        shape = (self.channels, self.size, self.size)
        if len(paths) * np.prod(shape) > self.max_megabytes * 1e6:
            raise files.too_large(self.name, str(folder), self.max_megabytes)
        cached = files.cache_folder() / f"{self.name}-{self._digest(folder, paths)}.npy"
        decoded = files.load_array(cached)
        whole = (np.dtype(np.uint8), (len(found), count, *shape))
        if decoded is None or (decoded.dtype, decoded.shape) != whole:
            decoded = np.empty((len(paths), *shape), np.uint8)
            for image, path in zip(decoded, paths, strict=True):
                image[:], _ = images.decoded(
                    path, self.size, self.channels, self.name, images.WHITE
                )
            decoded = decoded.reshape(len(found), count, *shape)
            files.store_array(cached, decoded)
        return decoded

    def _count(self, counts: Sequence[int], where: Path) -> int:
        least = min(counts, default=0)
        if least < 2:
            raise ValueError(
                f"{self.name} needs two images of every class, got {least} of one in {where}. "
                "Add images or remove the class."
            )
        return min(least, self.images_per_class or least)

    def _digest(self, folder: Path, paths: Sequence[Path]) -> str:
        """A name for the decoded images, from names, sizes and times of the files.

        Their content is not read for it: reading 780,000 files is slow.
        """
        # What the cache holds of JPEG files, which have no transparency, is as it always was.
        jpeg = all(path.suffix.lower() in (".jpg", ".jpeg") for path in paths)
        behind = "" if jpeg else f" {images.WHITE}"
        digest = hashlib.sha256(f"{self.size} {self.channels}{behind}".encode())
        for path in paths:
            about = path.stat()
            line = f"\n{path.relative_to(folder)} {about.st_size} {about.st_mtime_ns}"
            digest.update(line.encode())
        return digest.hexdigest()


def _npz(folder: Path, part: str = "train") -> Path:
    return folder / f"{part}.npz"

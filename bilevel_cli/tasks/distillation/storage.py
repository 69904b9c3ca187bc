"""Distilled sets as files: arrays for programs, a picture for people."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bilevel_cli.data.reading.npz import read_npz
from bilevel_cli.records.atomic import replaced

MAX_MEGABYTES = 4000  # fifty images of 64x64 for each of a thousand classes take 2 500
SIDE, GAP = 56, 2  # pixels: the least side of an image in a picture, and between two of them


def save_npz(path: Path, images: Tensor, labels: Tensor, **more: Any) -> None:
    """Writes images [n, ...], labels [n, classes], and more entries, as `save_arrays` does."""
    save_arrays(path, {"images": images, "labels": labels, **more})


def save_arrays(path: Path, entries: Mapping[str, Any]) -> None:
    """Writes arrays, numbers or words by name, as an npz file.

    numpy.load reads it without pickle. A reader sees the whole file or none.

    Raises:
        OSError: The file cannot be written.
    """
    arrays: dict[str, Any] = {
        name: value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        for name, value in entries.items()
    }
    for name, array in arrays.items():
        assert not array.dtype.hasobject, f"{name} would need pickle"
    with replaced(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def provenance(manifest: Path) -> str:
    """What a set comes from, as JSON: software, versions, seed, options, settings of the task.

    No path, no time, and nothing of the machine but its platform: the file may be given away.

    Args:
        manifest: Of the run, as `bilevel_cli.records.manifest` writes it; without it, the JSON of
            an empty object.
    """
    if not manifest.exists():
        return "{}"
    noted = json.loads(manifest.read_text())
    settings = noted.get("settings", {})
    found = {name: noted.get(name) for name in ("versions", "git_commit", "choices")}
    found |= {name: noted.get(name) for name in ("data", "data_sha256", "settings_sha256")}
    found |= {"seed": settings.get("seed"), "task": settings.get("task")}
    return json.dumps({"software": "bilevel-cli", **found})


class Distilled(NamedTuple):
    """A distilled set as it is stored.

    Attributes:
        images: Of shape [n, ...], in the units of the data.
        labels: Of shape [n, classes], >= 0.
        mean: What is subtracted from images before a network sees them.
        std: What they are divided by then.
        bytes: What the images take to store; labels are not counted.
        class_names: What people call the classes; empty where the file does not say.
        provenance: What the set comes from, in JSON (`provenance`); empty likewise.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    bytes: int
    class_names: tuple[str, ...]
    provenance: str


NUMBERS = ("images", "labels", "mean", "std")  # what has to be floating
OPTIONAL = ("mean", "std", "bytes", "class_names", "provenance")


def load_npz(path: Path) -> Distilled:
    """A distilled set from a file of `save_npz`, or another with the entries images and labels.

    Entries mean and std are optional, and broadcast with the images; so are bytes, a whole number
    which is else one for each value of the images, and the words class_names and provenance. Never
    a pickle, and at most `MAX_MEGABYTES` of memory.

    Raises:
        ValueError: The file holds no distilled set.
    """
    arrays = read_npz(str(path), ("images", "labels"), "A comparison", MAX_MEGABYTES)
    with zipfile.ZipFile(path) as archive:
        held = archive.namelist()
    names = tuple(name for name in OPTIONAL if f"{name}.npy" in held)
    arrays |= read_npz(str(path), names, "A comparison", MAX_MEGABYTES)
    for name in NUMBERS:
        array = arrays.get(name)
        if array is not None and (array.dtype.kind != "f" or not np.isfinite(array).all()):
            raise ValueError(
                f"A comparison needs finite floating numbers in {name!r} of {path}, got "
                f"{array.dtype}. Write the file anew."
            )
    dtype = torch.get_default_dtype()
    found = {
        name: torch.from_numpy(arrays[name].astype(np.float64)).to(dtype)
        for name in NUMBERS
        if name in arrays
    }
    images, labels = found["images"], found["labels"]
    paired = images.ndim >= 2 and labels.ndim == 2 and len(labels) == len(images)
    if not paired or not images.numel() or not (labels >= 0).all():
        raise ValueError(
            f"A comparison needs images [n, ...] and labels [n, classes] >= 0 in {path}, got "
            f"shapes {list(images.shape)} and {list(labels.shape)}, or a label below 0. "
            "Write the file anew."
        )
    size = arrays.get("bytes", np.array(images.numel()))
    if size.dtype.kind not in "iu" or size.ndim or size < 1:
        raise ValueError(
            f"A comparison needs a whole number >= 1 in 'bytes' of {path}, got {size.dtype} of "
            f"shape {list(size.shape)}. Write the file anew."
        )
    return Distilled(
        images,
        labels,
        found.get("mean", torch.zeros(())),
        found.get("std", torch.ones(())),
        int(size),
        _words(arrays, "class_names", labels.shape[1:], path),
        "".join(_words(arrays, "provenance", (), path)),
    )


def _words(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], path: Path
) -> tuple[str, ...]:
    """The words of an entry, which must have this shape; none where there is no such entry."""
    if name not in arrays:
        return ()
    array = arrays[name]
    if array.dtype.kind != "U" or array.shape != shape:
        raise ValueError(
            f"A comparison needs words of shape {list(shape)} in {name!r} of {path}, got "
            f"{array.dtype} of shape {list(array.shape)}. Write the file anew."
        )
    return tuple(array.ravel().tolist())


def columns_of(per_class: int, count: int) -> int:
    """The images in a row of a picture: those of a class; where that is one, at least ten.

    Args:
        per_class: Images of each class.
        count: All images.
    """
    return per_class if per_class > 1 else max(10, math.isqrt(count))


def save_grid(path: Path, images: Tensor, columns: int) -> None:
    """Writes a picture of images [n, channels, height, width], `columns` in a row.

    The least of all values is black and the largest white. `columns_of` says how many columns suit
    sets of classes. What a last row lacks is grey. Small images are magnified, so that their pixels
    can be told apart.
    """
    count, channels, *sides = images.shape
    if channels not in (1, 3):
        raise ValueError(f"A picture needs images of 1 or 3 channels, got {channels}.")
    values = images.detach().cpu().double()
    low, high = values.min(), values.max()
    grey = (255 * (values - low) / (high - low).clamp(min=1e-12)).round().to(torch.uint8)
    factor = max(1, -(-SIDE // max(sides)))
    large = grey.repeat_interleave(factor, 2).repeat_interleave(factor, 3).permute(0, 2, 3, 1)
    height, width = large.shape[1] + GAP, large.shape[2] + GAP
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = torch.full((rows * height - GAP, columns * width - GAP, channels), 128).byte()
    for number, image in enumerate(large):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height - GAP, left : left + width - GAP] = image
    Image.fromarray(sheet.squeeze(2).numpy() if channels == 1 else sheet.numpy()).save(path)

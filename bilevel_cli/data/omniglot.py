"""Omniglot, from its official zip files."""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bilevel_cli.data.base import Classes, ClassSplits
from bilevel_cli.data.reading import files
from bilevel_cli.data.reading.rotations import rotated_classes
from bilevel_cli.errors import out_of_memory

DRAWERS = 20  # images per character, one of each drawer
SIDE = 28
MAX_MEMBER_BYTES = 2**20  # the official images have at most 522
MAX_MEGABYTES = 40.0  # of a zip file: 19,280 such images and their names are less than half of it


class Omniglot(Classes):
    """1,623 characters of 50 alphabets, 20 images each (Lake et al., 2015).

    Source: https://github.com/brendenlake/omniglot. Images are resized to 28x28 and inverted. The
    split follows the released code of MAML (Finn et al., 2017, arXiv:1703.03400): characters of all
    alphabets are shuffled, 1,100 are for training, 100 for validation, 423 for test. Each character
    under each of four rotations is a class.

    Decoding takes seconds; the result is kept in the cache folder under the checksum of the zips.

    Args:
        root: Folder that holds the two zip files or `omniglot-py`, as torchvision lays them out;
            null for the cache.
        download: Whether to download absent files.
        url: Folder on the server.
        split_seed: Of the shuffle; not the run's seed.
        train: Number of training characters.
        validation: Number of validation characters; the others are for test.
    """

    folders: ClassVar[tuple[str, ...]] = ("omniglot-py",)
    md5: ClassVar[Mapping[str, str]] = {
        "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
    }

    def __init__(
        self,
        root: str | None,
        download: bool,
        url: str,
        split_seed: int,
        train: int,
        validation: int,
    ) -> None:
        for name, count in (("train", train), ("validation", validation)):
            if count < 1:
                raise ValueError(
                    f"Omniglot needs {name} >= 1 characters, got {name}={count}. Set data.{name}."
                )
        self.root, self.download, self.url = root, download, url
        self.split_seed, self.train, self.validation = split_seed, train, validation

    def classes(self) -> ClassSplits:
        characters = torch.from_numpy(self._characters()).unsqueeze(2)
        test = len(characters) - self.train - self.validation
        if test < 1:
            raise ValueError(
                f"Omniglot needs train + validation < {len(characters)} characters, the rest being "
                f"for test, got {self.train} + {self.validation}. "
                "Lower data.train or data.validation."
            )
        generator = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(len(characters), generator=generator)
        parts = torch.split(order, [self.train, self.validation, test])
        return ClassSplits(*(rotated_classes(characters[rows]) for rows in parts))

    @property
    def split_statement(self) -> str:
        return (
            f"{self.train} characters for training, {self.validation} for validation, all others "
            f"for test, shuffled across alphabets by split_seed={self.split_seed}; each in four "
            "rotations, every rotation a class"
        )

    def _characters(self) -> NDArray[np.uint8]:
        """All characters in the order of their names, [characters, 20, 28, 28]."""
        paths = [self._find(name) for name in self.md5]
        # The content names the cached file, so a changed zip is never answered with an old array.
        digest = hashlib.sha256(b"".join(_sha256(path) for path in paths)).hexdigest()
        cached = files.cache_folder() / f"omniglot-{SIDE}x{SIDE}-{digest}.npy"
        characters = files.load_array(cached)
        if characters is None or not _whole(characters):
            characters = _decode(paths)
            files.store_array(cached, characters)
        return characters

    def _find(self, name: str) -> Path:
        return files.find(
            name,
            who="Omniglot",
            root=self.root,
            folders=self.folders,
            url=self.url,
            md5=self.md5[name],
            max_megabytes=MAX_MEGABYTES,
            download=self.download,
        )


_MEMBER = re.compile(r"images_(?:background|evaluation)/([^/]+/character\d+)/(\d+_\d+)\.png")


def _decode(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Shape [characters, 20, 28, 28], characters and drawers in the order of their names."""
    characters: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for path in paths:
        try:
            archive = files.open_zip(path)
        except Exception as error:  # zipfile documents no closed list
            raise ValueError(
                f"Omniglot needs {path} to be a zip file: {error}. Replace the file."
            ) from error
        with archive:
            members = [
                (member, _MEMBER.fullmatch(member.filename)) for member in archive.infolist()
            ]
            for member, match in members:
                if match is not None:
                    drawings = characters.setdefault(match[1], {})
                    drawings[match[2]] = _decode_member(archive, member, path)
        if not any(match for _, match in members):
            raise ValueError(
                f"Omniglot needs images {path.stem}/<Alphabet>/character<NN>/<XXXX>_<YY>.png, got "
                f"none of them in {path}. Replace the file."
            )
    for name, drawings in characters.items():
        if len(drawings) != DRAWERS:
            raise ValueError(
                f"Omniglot needs {DRAWERS} images of every character, got {len(drawings)} of "
                f"{name} in {' and '.join(map(str, paths))}. Replace the files."
            )
    return np.stack(
        [
            np.stack([image for _, image in sorted(drawings.items())])
            for _, drawings in sorted(characters.items())
        ]
    )


def _decode_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path
) -> NDArray[np.uint8]:
    try:
        if member.file_size > MAX_MEMBER_BYTES:
            raise ValueError(f"{member.file_size} bytes, at most {MAX_MEMBER_BYTES} are read")
        with archive.open(member) as stream:
            # A bounded read: the declared size of a crafted member may be a lie.
            content = io.BytesIO(stream.read(MAX_MEMBER_BYTES))
        with Image.open(content, formats=["PNG"]) as image:
            if image.size != (105, 105):
                raise ValueError(f"size {image.size}, not (105, 105)")
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    except Exception as error:  # nor does Pillow
        if out_of_memory(error):
            raise
        raise ValueError(
            f"Omniglot cannot read {member.filename} in {path}: {error}. Replace the file."
        ) from error
    return 255 - np.asarray(small, dtype=np.uint8)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _whole(characters: NDArray[np.uint8]) -> bool:
    """Whether an array has the type and shape of decoded characters."""
    return characters.dtype == np.uint8 and characters.shape[1:] == (DRAWERS, SIDE, SIDE)

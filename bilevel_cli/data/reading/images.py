"""Folders of PNG and JPEG images, a folder for each class."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bilevel_cli.data.reading import files

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**26  # of one image: 67 megapixels
MODES = {1: "L", 3: "RGB"}


def check_sizes(who: str, size: int, channels: int) -> None:
    """Raises ValueError unless images can be made of that side and of so many channels."""
    if size < 1:
        raise ValueError(f"{who} needs size >= 1 pixels, got size={size}. Set data.size.")
    if channels not in MODES:
        raise ValueError(
            f"{who} needs 1 channel, grey, or 3, colour, got channels={channels}. "
            "Set data.channels."
        )


def by_class(folder: Path, who: str) -> dict[str, list[Path]]:
    """The images of each class, classes and images in the order of their names.

    Files of other kinds, and names that begin with a dot, are passed over.

    Raises:
        ValueError: There are fewer than two classes, or a link leads out of the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{who} needs the folder {folder}, got none. Set data.root.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("[!.]*/[!.]*")):
        if path.suffix.lower() in SUFFIXES:
            if path.is_symlink() or path.parent.is_symlink():
                files.inside(path, folder, who)
            found.setdefault(path.parent.name, []).append(path)
    if len(found) < 2:
        raise ValueError(
            f"{who} needs images <class>/*.png or *.jpg of two classes in {folder}, got "
            f"{len(found)} classes. Set data.root."
        )
    return found


def decoded(path: Path, size: int, channels: int, who: str) -> NDArray[np.uint8]:
    """One image, turned upright and resized to a square, of shape [channels, size, size].

    Raises:
        ValueError: The file is no image, or too large.
    """
    files.require_file(path, who)
    try:
        with Image.open(path, formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:  # known before any is decoded
                raise ValueError(f"size {image.size}, at most {MAX_PIXELS} pixels are read")
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}, 8 bits a channel are read")
            image.draft(MODES[channels], (size, size))  # JPEG: decodes no more than is needed
            picture = ImageOps.exif_transpose(image).convert(MODES[channels])
            small = picture.resize((size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # Pillow documents no closed list
        raise ValueError(f"{who} cannot read {path}: {error}. Replace the file.") from error
    pixels = np.asarray(small, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

"""One image from a file: upright, opaque, of 8 bits a channel, resized to a square."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageFile, ImageOps

from bilevel_cli.data.reading import files
from bilevel_cli.errors import out_of_memory

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF")
MAX_PIXELS = 2**26  # of one image: 67 megapixels
MAX_BYTES = 8 * MAX_PIXELS  # of one file: four channels of 16 bits, and nothing packed
MODES = {1: "L", 3: "RGB"}
WHITE = "white"
CONVERT = "Convert it to JPEG or PNG, by the package pillow-heif for one."

# What was decided about an image, for the statement of a run.
TRANSPARENT = "with transparency"
FRAMES = "of several frames or pages, of which the first is taken"
DEEP = "of more than 8 bits a channel, rounded to 8"


class Picture(NamedTuple):
    """An image as it was read.

    Attributes:
        pixels: Of shape [channels, size, size].
        notes: Of `TRANSPARENT`, `FRAMES` and `DEEP`, those that it is.
    """

    pixels: NDArray[np.uint8]
    notes: list[str]


def check_sizes(who: str, size: int, channels: int) -> None:
    """Raises ValueError unless images can be made of that side and of so many channels."""
    if size < 1:
        raise ValueError(f"{who} needs size >= 1 pixels, got size={size}. Set data.size.")
    if channels not in MODES:
        raise ValueError(
            f"{who} needs 1 channel, grey, or 3, colour, got channels={channels}. "
            "Set data.channels."
        )


def check_background(who: str, background: str) -> None:
    """Raises ValueError unless that is a colour without transparency, as Pillow writes them."""
    try:
        opaque = len(ImageColor.getrgb(str(background))) == 3
    except ValueError:
        opaque = False
    if not opaque:
        raise ValueError(
            f"{who} needs an opaque colour as background, such as white or navy, got "
            f"{background!r}. Set data.background."
        )


def decoded(path: Path, size: int, channels: int, who: str, background: str) -> Picture:
    """One image, of whichever kind its content is, turned upright and resized to a square.

    Args:
        path: Of the file. Its suffix is not asked.
        size: Side of the square in pixels.
        channels: 1: grey; 3: colour.
        who: The class that reads it, for messages.
        background: The colour behind what is transparent.

    Raises:
        ValueError: The file is no image, too large, or of numbers that are no levels of light.
    """
    files.require_file(path, who)
    try:
        if path.stat().st_size > MAX_BYTES:  # WebP and AVIF are held whole, before any size is told
            raise ValueError(f"more than {MAX_BYTES} bytes")
        # Pillow warns of what is refused here, and of damaged notes beside the pixels.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=readable()) as image,
        ):
            if image.width * image.height > MAX_PIXELS:  # known before any is decoded
                raise ValueError(f"size {image.size}, at most {MAX_PIXELS} pixels are read")
            tags = getattr(image, "tag_v2", {})  # of a TIFF file, whose tiles may exceed the image
            if tags.get(322, 1) * tags.get(323, 1) > MAX_PIXELS:
                raise ValueError(f"tiles of {tags[322]} x {tags[323]} pixels, more than are read")
            notes = _notes(image)
            image.draft(MODES[channels], (size, size))  # JPEG: decodes no more than is needed
            picture = ImageOps.exif_transpose(_levels(image))
            if picture.has_transparency_data:
                # Before it is resized, which would mix colours that nobody sees into the edges.
                above = picture.convert("RGBA")
                picture = Image.new("RGB", above.size, background)
                picture.paste(above, mask=above)
                notes += [TRANSPARENT] * (above.getchannel("A").getextrema() != (255, 255))
            small = picture.convert(MODES[channels]).resize((size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # Pillow documents no closed list
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).replace(f" {str(path)!r}", "").split())
        if _is_heic(path):
            raise ValueError(f"{who} cannot read {path}: it is HEIC. {CONVERT}") from error
        raise ValueError(f"{who} cannot read {path}: {reason}. Replace the file.") from error
    pixels = np.asarray(small, dtype=np.uint8)
    return Picture(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), notes)


def readable() -> list[str]:
    """Those of the formats that this Pillow has: AVIF came with 11.3."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _notes(image: ImageFile.ImageFile) -> list[str]:
    # A photograph in MPO carries its own thumbnails as further frames.
    several = getattr(image, "is_animated", False) and image.format != "MPO"
    deep = image.mode.startswith("I") or _of_16_bits(image)
    return [FRAMES] * several + [DEEP] * deep


def _of_16_bits(image: ImageFile.ImageFile) -> bool:
    """Whether a channel has 16 bits in the file. BGR;16 is 5, 6 and 5 bits of one pixel."""
    return ";16" in str(image.tile) and "BGR;16" not in str(image.tile)


def _levels(image: ImageFile.ImageFile) -> Image.Image:
    """The image with 8 bits a channel. Pillow would cut grey of 16 bits off at 255."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating numbers" if image.mode == "F" else "whole numbers of 32 bits or with signs"
        raise ValueError(f"its pixels are {kind}; 8 or 16 bits without sign are read")
    if not image.mode.startswith("I"):
        if "transparency" in image.info and _of_16_bits(image):
            # Pillow keeps the high bytes of the pixels, and the whole number of the colour.
            image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
        return image
    most = 4095 if ";12" in str(image.tile) else 65535
    light = np.asarray(image).astype(np.float64)
    clear = image.info.pop("transparency", None)
    alpha = np.where(light == clear, 0, 255).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        light = most - light  # "white is zero", which Pillow minds for 8 bits alone
    grey = Image.fromarray(np.rint(light * (255 / most)).astype(np.uint8))
    if clear is not None:
        grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
    grey.info = dict(image.info)  # holds the orientation
    return grey


def _is_heic(path: Path) -> bool:
    """Whether the file is what phones call HEIC, whatever its suffix says."""
    with path.open("rb") as stream:
        start = stream.read(12)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"heim", b"hevc", b"mif1")
